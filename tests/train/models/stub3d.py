"""A tiny network in three dimensions, as somebody would write their own: nothing else of ours knows it."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, cat, nn

from dira_scale.base.arguments import AtLeast
from dira_scale.base.config.schema import setting
from dira_scale.train.models.architecture import Architecture
from dira_scale.train.models.network import Encoder, Network

TARGET = f"{__name__}.Tiny3D"


class TinyEncoder(Encoder):
    """[b, 1, D, H, W] -> maps at 1, 1/2 and 1/4."""

    dimensions: ClassVar[int] = 3
    name = "tiny3d"

    def __init__(self, width: int, channels: int = 1) -> None:
        super().__init__()
        self._in_channels = channels
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv3d(before, after, 3, stride=2, padding=1), nn.BatchNorm3d(after), nn.ReLU())
            for before, after in ((channels, width), (width, 2 * width))
        )
        self._channels = [channels, width, 2 * width]

    @property
    def channels(self) -> list[int]:
        return self._channels

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = [self._expanded(x)]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps


class TinyDecoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(2 * width, width, 2, stride=2)
        self.last = nn.ConvTranspose3d(2 * width, width, 2, stride=2)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        result: Tensor = self.last(cat([self.up(pyramid[-1]), pyramid[-2]], dim=1))
        return result


class TinyNetwork(Network):
    def __init__(self, encoder: TinyEncoder, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, TinyDecoder(width), nn.Conv3d(width, classes, 1)


@dataclass
class Tiny3D(Architecture):
    width: int = setting(AtLeast(1))

    dimensions: ClassVar[int] = 3

    def build_encoder(self, size: int | tuple[int, ...], channels: int | None = None) -> TinyEncoder:
        return TinyEncoder(self.width, channels or self.channels)

    def build_network(self, encoder: Encoder, classes: int = 1) -> TinyNetwork:
        assert isinstance(encoder, TinyEncoder)
        return TinyNetwork(encoder, self.width, classes)
