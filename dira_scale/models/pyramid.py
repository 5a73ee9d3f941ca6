"""The interface of encoders: a feature pyramid over a timm backbone."""

from typing import Any

from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from torch import Tensor, nn

DEPTH = 5  # halvings from the image to the last feature map


class Encoder(nn.Module):
    """[b, 1 or C, H, W] -> its pyramid: the image itself, then features at 1/2, 1/4, … 1/32, finest first.

    A single channel is expanded to the stem's C channels without copying. State entries under ``model.`` are timm's.

    Attributes:
        name: timm's name of the backbone.
        arguments: for ``timm.create_model`` beside the name (``img_size`` for networks of a fixed size).
        channels: the pyramid's channel counts, the image's first; 0 at 1/2 if the stem starts at 1/4.
    """

    name: str
    arguments: dict[str, int]
    model: Any
    _in_channels: int

    @property
    def channels(self) -> list[int]:
        raise NotImplementedError


class HierarchicalEncoder(Encoder, TimmUniversalEncoder):
    """A backbone that halves its maps step by step (ResNet, ConvNeXt, Swin, …), as in ``smp.Unet("tu-NAME")``."""

    out_channels: list[int]

    def __init__(self, name: str, in_channels: int, arguments: dict[str, int]) -> None:
        super().__init__(name, pretrained=False, in_channels=in_channels, depth=DEPTH, **arguments)
        self.arguments = arguments

    @property
    def channels(self) -> list[int]:
        return list(self.out_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        features: list[Tensor] = super().forward(x.expand(-1, self._in_channels, -1, -1))
        return features
