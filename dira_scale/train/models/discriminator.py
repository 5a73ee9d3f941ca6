"""The adversary's network: scores whether each patch comes from a real image."""

from collections.abc import Sequence

from torch import nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.network import CONVOLUTIONS
from dira_scale.train.models.norm_act import InstanceNormAct

STRIDE = 8  # pixels between patches
SLOPE = 0.2  # of LeakyReLU


def check_size(size: Sequence[int]) -> None:
    """Raise ArgumentError for images of one patch, which InstanceNorm cannot normalise."""
    if all(side <= STRIDE for side in size):
        actual, larger = (sides if len(sides) > 2 else sides[0] for sides in ([*size], [2 * STRIDE] * len(size)))
        expected = f"{larger} or larger, or stages without the term ad: the discriminator's last map would be one patch"
        raise ArgumentError("size", actual, expected)


class Discriminator(nn.Sequential):
    """[b, C, *size] -> one unbounded score per patch [b, 1, *size / 8], receptive field 47 pixels (DiRA, as released).

    Four Conv3-LeakyReLU blocks of strides 2, 2, 2, 1, InstanceNorm in all but the first, then a scoring Conv3.
    Convolution weights start as N(0, 0.02).
    """

    def __init__(self, dimensions: int = 2, channels: int = 1) -> None:
        super().__init__(
            *_block(dimensions, channels, 64, stride=2, norm=False),
            *_block(dimensions, 64, 128, stride=2),
            *_block(dimensions, 128, 256, stride=2),
            *_block(dimensions, 256, 512, stride=1),
            CONVOLUTIONS[dimensions](512, 1, kernel_size=3, padding=1),
        )
        for layer in self:
            if isinstance(layer, CONVOLUTIONS[dimensions]):
                nn.init.normal_(layer.weight, 0.0, 0.02)


def _block(dimensions: int, inputs: int, outputs: int, stride: int, norm: bool = True) -> list[nn.Module]:
    convolution = CONVOLUTIONS[dimensions](inputs, outputs, kernel_size=3, stride=stride, padding=1)
    if not norm:
        return [convolution, nn.LeakyReLU(SLOPE, inplace=True)]
    return [convolution, InstanceNormAct(outputs, SLOPE, affine=False), nn.Identity()]  # layers keep their numbers
