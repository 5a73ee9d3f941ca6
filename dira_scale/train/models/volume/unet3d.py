"""The 3D U-Net of Models Genesis (Zhou et al., MedIA 2021) and TransVW (Haghighi et al., TMI 2021), in both layouts."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dira_scale.train.models.network import FINEST, Encoder, Network
from dira_scale.train.models.norm_act import InstanceNormAct
from dira_scale.train.models.translations import UNET3D, Rules
from dira_scale.train.models.upsample import nearest_beside
from dira_scale.train.models.volume import GROUPS

LEVELS = 4
NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm3d,
    "instance": lambda channels: InstanceNormAct(channels, slope=0.0),
    "group": lambda channels: nn.GroupNorm(GROUPS, channels),
}


class ConvNormReLU(nn.Sequential):
    """Conv3x3x3, norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(inputs, outputs, 3, padding=1), NORMS[norm](outputs)
        self.act = nn.Identity() if norm == "instance" else nn.ReLU(inplace=True)


def convolutions(*channels: int, norm: str) -> nn.Sequential:
    """From the first number of ``channels`` to the second, and so on."""
    return nn.Sequential(*(ConvNormReLU(inputs, outputs, norm) for inputs, outputs in pairwise(channels)))


class UNet3DEncoder(Encoder):
    """[b, 1 or C, D, H, W] -> the volume itself, then features at 1, 1/2, 1/4 and 1/8 of its sides.

    Level i has ``base`` · 2^i channels after its first convolution and twice as many after its second; a maximum of
    2x2x2 voxels leads to the next.
    """

    dimensions = 3
    name = "unet3d"
    layouts: ClassVar[Mapping[str, Rules]] = {"our own": (), "Models Genesis'": UNET3D}
    published_xyz = ("Models Genesis'",)  # SimpleITK's arrays transposed; TransVW's and PCRL's files, too

    def __init__(self, base: int = 32, norm: str = "batch", in_channels: int = 1) -> None:
        super().__init__()
        self._in_channels = in_channels
        self._channels = [in_channels, *(2 * base << level for level in range(LEVELS))]
        self.levels = nn.ModuleList(
            convolutions(inputs, outputs // 2, outputs, norm=norm) for inputs, outputs in pairwise(self._channels)
        )
        for i, level in enumerate(self.levels):
            level.recompute = i < FINEST  # type: ignore[assignment]

    @property
    def channels(self) -> list[int]:
        return list(self._channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        pyramid = [self._expanded(x)]
        for i, level in enumerate(self.levels):
            pyramid.append(level(F.max_pool3d(pyramid[-1], 2) if i else pyramid[-1]))
        return pyramid


class Up(nn.Module):
    """A coarser map [b, C, *size / 2] and a skip [b, c, *size] -> [b, c, *size]: doubled, concatenated, convolved."""

    def __init__(self, coarser: int, skip: int, norm: str, up: str) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(coarser, coarser, 2, stride=2) if up == "transposed" else None
        self.convs = convolutions(coarser + skip, skip, skip, norm=norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined = nearest_beside(x, skip) if self.up is None else torch.cat([self.up(x), skip], dim=1)
        return self.convs(joined)


class UNet3DDecoder(nn.Module):
    """The pyramid -> a map of the volume's size, with the channels of the finest level."""

    def __init__(self, channels: list[int], norm: str, up: str) -> None:
        super().__init__()
        self.levels = nn.ModuleList(Up(coarser, skip, norm, up) for coarser, skip in pairwise(channels[:0:-1]))
        for i, level in enumerate(reversed(self.levels)):
            level.recompute = i < FINEST  # type: ignore[assignment]

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        x, *skips = pyramid[:0:-1]
        for level, skip in zip(self.levels, skips, strict=True):
            x = level(x, skip)
        return x


class UNet3DNetwork(Network):
    """[b, 1 or C, D, H, W] -> logits [b, classes, D, H, W]; no sigmoid.

    With ``up="transposed"`` the layout of the authors' PyTorch code (19,073,665 parameters at full width, one channel
    and class), with ``up="nearest"`` that of their Keras code (16,320,257); either encoder has 7,027,776.
    """

    def __init__(self, encoder: UNet3DEncoder, norm: str = "batch", up: str = "transposed", classes: int = 1) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = UNet3DDecoder(encoder.channels, norm, up)
        self.head = nn.Conv3d(encoder.channels[1], classes, kernel_size=1)
