"""A light feature pyramid over plain vision transformers, which have a single resolution."""

import math

import timm
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from dira_scale.models.pyramid import TimmEncoder

STRIDES = (4, 8, 16, 32)


class PlainEncoder(TimmEncoder):
    """Patch tokens of four depths as maps at 1/4, 1/8, 1/16 and 1/32; nothing at 1/2.

    Which block feeds which map follows UNETR (Hatamizadeh et al., WACV 2022: finer maps from earlier blocks, here after
    1/4, 1/2, 3/4 and all of them); the resampling is ViTDet's simple pyramid (Li et al., ECCV 2022, sec. 3: strided
    deconvolutions upwards, pooling downwards), with channels halved at every doubling.

    The last map is the backbone's own output, the patch tokens after the final norm, averaged down to 1/32 without
    parameters: pooled, it is the mean patch token (exactly, if the patch size divides 32). Class and register tokens
    take part in attention but not in the maps. A final norm that follows the pooling (``fc_norm``) is applied to every
    token instead.
    """

    def __init__(self, name: str, in_channels: int, arguments: dict[str, int]) -> None:
        super().__init__()
        self.name, self.arguments, self._in_channels = name, arguments, in_channels
        self.model = timm.create_model(name, in_chans=in_channels, num_classes=0, **arguments)
        if getattr(self.model, "attn_pool", None) is not None:
            self.model.attn_pool = None  # methods do the pooling
        self.patch, width = (self.model.feature_info[-1][key] for key in ("reduction", "num_chs"))
        self.block_indices = [math.ceil(len(self.model.feature_info) * part / 4) - 1 for part in (1, 2, 3, 4)]
        doublings = [max(0, math.ceil(math.log2(self.patch / stride))) for stride in STRIDES]
        self.pyramid = nn.ModuleList(_level(width, count) for count in doublings[:-1])
        self._channels = [in_channels, 0, *(width >> count for count in doublings[:-1]), width]

    @property
    def channels(self) -> list[int]:
        return list(self._channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self._expanded(x)
        height, width = x.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"views of {height} x {width} pixels do not divide into patches of {self.patch}")
        tokens, maps = self.model.forward_intermediates(x, indices=self.block_indices, output_fmt="NCHW")
        if isinstance(self.model.norm, nn.Identity):
            tokens = self.model.fc_norm(tokens)
        last = tokens[:, getattr(self.model, "num_prefix_tokens", 0) :].transpose(1, 2).reshape(maps[-1].shape)
        levels = [level(features) for level, features in zip(self.pyramid, maps[:-1], strict=True)]
        pyramid = [
            _averaged(features, (height // stride, width // stride))
            for features, stride in zip([*levels, last], STRIDES, strict=True)
        ]
        return [x, x.new_empty(x.shape[0], 0, height // 2, width // 2), *pyramid]


def _averaged(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling [b, C, h, w] -> [b, C, *size]. torch's own adds gradients in any order on a GPU."""
    (h, w), (height, width) = features.shape[2:], size
    if (h, w) == size:
        return features
    if h % height == 0 and w % width == 0:
        return features.unflatten(3, (width, w // width)).unflatten(2, (height, h // height)).mean((3, 5))
    rows, columns = _windows(h, height, features), _windows(w, width, features)
    sums = rows @ features @ columns.T
    return sums / (rows.sum(1)[:, None] * columns.sum(1))


def _windows(length: int, count: int, like: Tensor) -> Tensor:
    """[count, length]: 1 in each of ``count`` windows, the i-th from floor(i n / m) to ceil((i + 1) n / m); else 0."""
    i, positions = (torch.arange(n, device=like.device) for n in (count, length))
    start, end = i * length // count, ((i + 1) * length + count - 1) // count
    inside = (positions >= start[:, None]) & (positions < end[:, None])
    return inside.to(like.dtype)


def _level(width: int, doublings: int) -> nn.Sequential:
    """Normalise the residual stream; upsample 2^doublings times, with channels divided by 2^doublings."""
    layers: list[nn.Module] = [LayerNorm2d(width)]
    for i in range(doublings):
        layers += [nn.GELU()] if i else []
        layers.append(nn.ConvTranspose2d(width >> i, width >> (i + 1), kernel_size=2, stride=2))
    return nn.Sequential(*layers)
