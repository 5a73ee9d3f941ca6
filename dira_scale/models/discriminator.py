"""The adversary's network: scores whether each patch comes from a real image."""

from torch import nn


class Discriminator(nn.Sequential):
    """[b, 1, H, W] -> one unbounded score per patch [b, 1, H/8, W/8], receptive field 47 pixels (DiRA, as released).

    Four Conv3x3-LeakyReLU blocks of strides 2, 2, 2, 1, InstanceNorm in all but the first, then a scoring Conv3x3.
    Convolution weights start as N(0, 0.02).
    """

    def __init__(self) -> None:
        super().__init__(
            *_block(1, 64, stride=2, norm=False),
            *_block(64, 128, stride=2),
            *_block(128, 256, stride=2),
            *_block(256, 512, stride=1),
            nn.Conv2d(512, 1, kernel_size=3, padding=1),
        )
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)


def _block(inputs: int, outputs: int, stride: int, norm: bool = True) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1)
    return [convolution, *([nn.InstanceNorm2d(outputs)] if norm else []), nn.LeakyReLU(0.2, inplace=True)]
