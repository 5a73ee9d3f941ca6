"""The adversary's network: scores whether each patch comes from a real image."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.models.network import CONVOLUTIONS
from dira_scale.train.models.norm_act import InstanceNormAct, bias_act, fuses

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


class _BlockConvolution2d(nn.Conv2d):
    """A block's convolution. If it is ``normed``, the InstanceNorm after it would remove the bias, so none is added.
    Otherwise LeakyReLU is applied too, on a GPU together with the bias."""

    normed: bool

    def forward(self: Any, input: Tensor) -> Tensor:
        if self.normed:
            return self._conv_forward(input, _Unbiased.apply(self.weight, self.bias), None)
        if fuses(input):
            return bias_act(self._conv_forward(input, self.weight, None), self.bias, SLOPE)
        return F.leaky_relu_(self._conv_forward(input, self.weight, self.bias), SLOPE)


class _BlockConvolution3d(nn.Conv3d):
    normed: bool
    forward = _BlockConvolution2d.forward


class _Unbiased(torch.autograd.Function):
    """Return ``weight``. The unused ``bias`` gets a gradient of zeros, so that optimizers keep a state for it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, dweight: Tensor) -> tuple[Tensor, Tensor]:
        return dweight, dweight.new_zeros(len(dweight))


def _block(dimensions: int, inputs: int, outputs: int, stride: int, norm: bool = True) -> list[nn.Module]:
    kind: Any = {2: _BlockConvolution2d, 3: _BlockConvolution3d}[dimensions]
    convolution = kind(inputs, outputs, kernel_size=3, stride=stride, padding=1)
    convolution.normed = norm
    after = [InstanceNormAct(outputs, SLOPE, affine=False), nn.Identity()] if norm else [nn.Identity()]
    return [convolution, *after]  # layers keep their numbers
