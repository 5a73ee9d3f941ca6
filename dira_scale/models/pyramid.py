"""The interface of encoders: a feature pyramid over a timm backbone."""

from typing import Any

import torch
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from torch import Tensor, nn

DEPTH = 5  # halvings from the image to the last feature map


class Encoder(nn.Module):
    """[b, 1 or C, H, W] -> its pyramid: the image itself, then features at 1/2, 1/4, … 1/32, finest first.

    A single channel is expanded to the stem's C channels, without copying unless ``channels_last``. State entries under
    ``model.`` are timm's.

    Attributes:
        channels_last: whether the stem gets an image that is channels last in memory. An expanded one has no layout of
            its own, so a convolution takes its weights': those of a sharded module are always contiguous.
        name: timm's name of the backbone.
        arguments: for ``timm.create_model`` beside the name (``img_size`` for networks of a fixed size).
        channels: the pyramid's channel counts, the image's first; 0 at 1/2 if the stem starts at 1/4.
    """

    name: str
    arguments: dict[str, int]
    model: Any
    channels_last = False
    _in_channels: int

    @property
    def channels(self) -> list[int]:
        raise NotImplementedError

    def _expanded(self, x: Tensor) -> Tensor:
        """[b, 1 or C, H, W] -> [b, C, H, W]."""
        x = x.expand(-1, self._in_channels, -1, -1)
        return x.contiguous(memory_format=torch.channels_last) if self.channels_last else x


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
        features: list[Tensor] = super().forward(self._expanded(x))
        return features
