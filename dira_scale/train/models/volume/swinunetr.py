"""MONAI's Swin UNETR (Hatamizadeh et al., BrainLes 2021) as an encoder, a decoder and a head, with MONAI's names."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from etils.epy import lazy_imports
from torch import Tensor, nn

from dira_scale.base.errors import require
from dira_scale.train.models.architecture import XYZ
from dira_scale.train.models.network import FINEST, Encoder, Network
from dira_scale.train.models.translations import SWINUNETR, Rules

with lazy_imports():
    from monai.networks import blocks
    from monai.networks.nets import swin_unetr

    from dira_scale.train.models.volume import swin_block

WIDTHS = (1, 1, 2, 4, 8, 16)  # of the maps, finest first, in feature sizes


class SwinEncoder(Encoder):
    """[b, 1 or C, D, H, W] -> the volume itself, then maps at 1, 1/2, … 1/32 of its sides, as the decoder takes them.

    A transformer of four stages, and after each of its maps but that at 1/16 a residual block of convolutions. Dropout
    and stochastic depth are off. ``bias_axes``: the order of axes in which attention on maps smaller than a window
    (``swin_block.AttentionBlock``) numbers its voxels: ``xyz``, as MONAI, or ``zyx``.

    Raises UserError if MONAI is not installed.
    """

    dimensions = 3
    name = "swinunetr"
    layouts: ClassVar[Mapping[str, Rules]] = {"our own or MONAI's": SWINUNETR}
    published_xyz = ("our own or MONAI's",)  # NIfTI's order, as MONAI's LoadImage reads it

    def __init__(self, feature_size: int = 48, in_channels: int = 1, bias_axes: str = XYZ) -> None:
        super().__init__()
        self._in_channels, self.feature_size = in_channels, feature_size
        require("swinunetr needs", "evaluation", "monai")

        device = torch.get_default_device()
        sides = (7,) * 3, (2,) * 3  # of a window, of a patch
        with torch.device("cpu"):  # it reads values of tensors, and the planner builds networks without any
            transformer = swin_unetr.SwinTransformer(in_channels, feature_size, *sides, (2,) * 4, (3, 6, 12, 24)).to(
                device
            )
        if bias_axes == XYZ:
            for number in (1, 2, 3, 4):
                for block in getattr(transformer, f"layers{number}")[0].blocks:
                    block.__class__ = swin_block.AttentionBlock
        self.swinViT = transformer
        sizes = [feature_size * width for width in WIDTHS]
        self.encoder1, self.encoder2 = _residual(in_channels, sizes[0]), _residual(sizes[1], sizes[1])
        self.encoder3, self.encoder4 = _residual(sizes[2], sizes[2]), _residual(sizes[3], sizes[3])
        self.encoder10 = _residual(sizes[5], sizes[5])
        for i, block in enumerate((self.encoder1, self.encoder2, self.encoder3, self.encoder4, self.encoder10)):
            block.recompute = i < FINEST
        for i in (1, 2, 3, 4):
            (stage,) = getattr(self.swinViT, f"layers{i}")  # its input is at 1/2, 1/4, 1/8, 1/16
            stage.recompute = i < FINEST

    @property
    def channels(self) -> list[int]:
        return [self._in_channels, *(self.feature_size * width for width in WIDTHS)]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self._expanded(x)
        half, quarter, eighth, sixteenth, last = self.swinViT(x)
        finer = [self.encoder1(x), self.encoder2(half), self.encoder3(quarter), self.encoder4(eighth)]
        return [x, *finer, sixteenth, self.encoder10(last)]


class SwinDecoder(nn.Module):
    """The pyramid -> a map of the volume's size: at each step doubled, concatenated with the skip, convolved."""

    def __init__(self, feature_size: int) -> None:
        super().__init__()
        for number, (finer, coarser) in enumerate(pairwise(WIDTHS), start=1):
            block = swin_block.settle(
                blocks.UnetrUpBlock(3, coarser * feature_size, finer * feature_size, 3, 2, "instance", res_block=True)
            )
            block.recompute = number <= FINEST
            self.add_module(f"decoder{number}", block)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        x, *skips = pyramid[:0:-1]
        for skip, number in zip(skips, (5, 4, 3, 2, 1), strict=True):
            x = getattr(self, f"decoder{number}")(x, skip)
        return x


class SwinNetwork(Network):
    """[b, 1 or C, D, H, W] -> logits [b, classes, D, H, W]."""

    def __init__(self, encoder: SwinEncoder, classes: int = 1) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, SwinDecoder(encoder.feature_size)
        self.head = blocks.UnetOutBlock(3, encoder.feature_size, classes)


def _residual(inputs: int, outputs: int) -> Any:
    return swin_block.settle(blocks.UnetrBasicBlock(3, inputs, outputs, 3, 1, "instance", res_block=True))
