"""A tiny encoder of images or volumes whose map can be computed by hand."""

from torch import Tensor, nn

from dira_scale.train.models.network import CONVOLUTIONS, Encoder


class Patches(Encoder):
    """A convolution of patches of ``side`` pixels that do not overlap, then ReLU, in place as a ResNet's."""

    name = "patches"

    def __init__(self, dimensions: int, side: int, channels: int) -> None:
        super().__init__()
        self.convolution = CONVOLUTIONS[dimensions](1, channels, side, side)

    @property
    def channels(self) -> list[int]:
        return [1, self.convolution.out_channels]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, nn.functional.relu(self.convolution(x), inplace=True)]
