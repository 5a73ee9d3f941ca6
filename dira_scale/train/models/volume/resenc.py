"""nnU-Net's U-Net with a residual encoder (Isensee et al., MICCAI 2024), its weights named and shaped as there.

Names are those of ``ResidualEncoderUNet`` in dynamic_network_architectures; the head here is the last of nnU-Net's
``seg_layers``, which it never transfers.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from dira_scale.train.models.network import FINEST, Encoder, Network
from dira_scale.train.models.norm_act import InstanceNormAct
from dira_scale.train.models.translations import RESENC, Rules

SLOPE = 0.01  # of LeakyReLU, and what weights are drawn for


class Convolution(nn.Module):
    """Conv, InstanceNorm, the addition of a map, if one is given, and, if ``act``, LeakyReLU; of a kernel of one voxel
    without a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, act: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=kernel > 1)
        self.norm = InstanceNormAct(outputs, SLOPE if act else 1.0)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.norm(self.conv(x), residual)


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is averaged down and projected (ResNet-D)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Convolution(inputs, outputs, stride=stride)
        self.conv2 = Convolution(outputs, outputs)
        shortcut: list[nn.Module] = [nn.AvgPool3d(stride, stride)] if stride > 1 else []
        shortcut += [Convolution(inputs, outputs, kernel=1, act=False)] if inputs != outputs else []
        self.skip = nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x), self.skip(x))


class ResEncStage(nn.Module):
    """Residual blocks at one resolution, the first of which halves the sides if ``stride`` is 2."""

    def __init__(self, inputs: int, outputs: int, count: int, stride: int, recompute: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(Residual(outputs if i else inputs, outputs, 1 if i else stride) for i in range(count))
        )
        for block in self.blocks:
            block.recompute = recompute  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Convolutions(nn.Module):
    """One convolution of maps that are concatenated first: the stem, or a decoder's stage."""

    def __init__(self, inputs: int, outputs: int, recompute: bool) -> None:
        super().__init__()
        self.convs = nn.Sequential(Convolution(inputs, outputs))
        self.recompute = recompute

    def forward(self, *maps: Tensor) -> Tensor:
        return self.convs(torch.cat(maps, dim=1) if len(maps) > 1 else maps[0])


class ResEncEncoder(Encoder):
    """[b, 1 or C, D, H, W] -> the volume itself, then the maps of the stages, at 1, 1/2, … of its sides."""

    dimensions = 3
    name = "resenc"
    layouts: ClassVar[Mapping[str, Rules]] = {"our own or nnU-Net's": RESENC}

    def __init__(self, features: Sequence[int], blocks: Sequence[int], in_channels: int = 1) -> None:
        super().__init__()
        self._in_channels, self.features, self.blocks = in_channels, list(features), list(blocks)
        self.stem = Convolutions(in_channels, features[0], recompute=True)
        inputs = [features[0], *features]
        self.stages = nn.Sequential(
            *(
                ResEncStage(before, after, count, 2 if i else 1, i < FINEST)
                for i, ((before, after), count) in enumerate(zip(pairwise(inputs), blocks, strict=True))
            )
        )
        self.apply(_initialise)

    @property
    def channels(self) -> list[int]:
        return [self._in_channels, *self.features]

    def forward(self, x: Tensor) -> list[Tensor]:
        pyramid = [self._expanded(x)]
        y = self.stem(pyramid[0])
        for stage in self.stages:
            y = stage(y)
            pyramid.append(y)
        return pyramid


class ResEncDecoder(nn.Module):
    """The pyramid -> a map of the volume's size: at each stage doubled, concatenated with the skip, convolved once."""

    def __init__(self, features: Sequence[int]) -> None:
        super().__init__()
        steps = list(pairwise(reversed(features)))
        self.stages = nn.ModuleList(
            Convolutions(2 * skip, skip, recompute=i >= len(steps) - FINEST) for i, (_, skip) in enumerate(steps)
        )
        self.transpconvs = nn.ModuleList(nn.ConvTranspose3d(coarser, skip, 2, 2) for coarser, skip in steps)
        self.apply(_initialise)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        x, *skips = pyramid[:0:-1]
        for up, stage, skip in zip(self.transpconvs, self.stages, skips, strict=True):
            x = stage(up(x), skip)
        return x


class ResEncNetwork(Network):
    """[b, 1 or C, D, H, W] -> logits [b, classes, D, H, W]."""

    def __init__(self, encoder: ResEncEncoder, classes: int = 1) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, ResEncDecoder(encoder.features)
        self.head = nn.Conv3d(encoder.features[0], classes, kernel_size=1)
        _initialise(self.head)


def _initialise(module: nn.Module) -> None:
    """Initialise as nnU-Net does: He's normal weights, and each residual block begins as its shortcut."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Residual):
        nn.init.zeros_(module.conv2.norm.weight)
