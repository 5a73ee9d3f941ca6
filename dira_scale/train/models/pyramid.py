"""A feature pyramid over a timm backbone."""

from typing import Any, ClassVar

import timm
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from torch import Tensor

from dira_scale.train.models.network import Encoder

DEPTH = 5  # halvings from the image to the last feature map


class TimmEncoder(Encoder):
    """[b, 1 or C, H, W] -> the image itself, then features at 1/2, 1/4, … 1/32.

    State entries under ``model.`` are timm's.

    Attributes:
        name: timm's name of the backbone.
        arguments: for ``timm.create_model`` beside the name (``img_size`` for networks of a fixed size, and the
            configuration's).
        channels: 0 at 1/2 if the stem starts at 1/4.
    """

    dimensions: ClassVar[int] = 2
    name: str
    arguments: dict[str, Any]
    model: Any

    @property
    def fixed_size(self) -> bool:
        return bool(timm.get_pretrained_cfg(self.name).fixed_input_size)


class HierarchicalEncoder(TimmEncoder, TimmUniversalEncoder):
    """A backbone that halves its maps step by step (ResNet, ConvNeXt, Swin, …), as in ``smp.Unet("tu-NAME")``."""

    out_channels: list[int]

    def __init__(self, name: str, in_channels: int, arguments: dict[str, Any]) -> None:
        super().__init__(name, pretrained=False, in_channels=in_channels, depth=DEPTH, **arguments)
        self.arguments = arguments

    @property
    def channels(self) -> list[int]:
        return list(self.out_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        return super().forward(self._expanded(x))
