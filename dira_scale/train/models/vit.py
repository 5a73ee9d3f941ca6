"""A light feature pyramid over plain vision transformers, which have a single resolution."""

import inspect
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d, PatchEmbed, resample_patch_embed
from torch import Tensor, nn

from dira_scale.train.models.dino_files import is_kernel
from dira_scale.train.models.pyramid import TimmEncoder

STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Cubic:
    """The parameters by which positions are resampled to another grid, with Keys' cubic filter.

    Attributes:
        a: the filter's parameter.
        widened: whether the filter is as wide as the new step where there are fewer positions now (antialiased).
        offset: added to the new number of positions where their step is computed.
    """

    a: float
    widened: bool
    offset: float


# timm's, which is also that of DINOv2's networks with registers; DINO's and DINOv2's own code for all others
# (vision_transformer.py, interpolate_pos_encoding); transformers' for files of these (Dinov2Embeddings).
CUBICS = {"timm": Cubic(-0.5, True, 0.0), "dino": Cubic(-0.75, False, 0.1), "transformers": Cubic(-0.75, False, 0.0)}


class PlainEncoder(TimmEncoder):
    """Patch tokens of four depths as maps at 1/4, 1/8, 1/16 and 1/32; nothing at 1/2.

    Which block feeds which map follows UNETR (Hatamizadeh et al., WACV 2022: finer maps from earlier blocks, here after
    1/4, 1/2, 3/4 and all of them); the resampling is ViTDet's simple pyramid (Li et al., ECCV 2022, sec. 3: strided
    deconvolutions upwards, pooling downwards), with channels halved at every doubling.

    The last map is the backbone's own output, the patch tokens after the final norm, averaged down to 1/32 without
    parameters: pooled, it is the mean patch token (exactly, if the patch size divides 32). Class and register tokens
    take part in attention but not in the maps; ``tokens`` has them. A final norm that follows the pooling (``fc_norm``)
    is applied to every token instead.

    Images of another size than the network was built for get a position embedding that is resampled from its own by the
    ``cubic`` of ``positions``, one of ``CUBICS``, unless timm's network has a way of its own (``dynamic_img_size``, as
    DINOv3's). Other networks whose positions are not one learnt embedding (rotary, relative) do not take them.
    """

    positions = "timm"

    def __init__(self, name: str, in_channels: int, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.arguments, self._in_channels = name, arguments, in_channels
        self.model = timm.create_model(name, in_chans=in_channels, num_classes=0, **arguments)
        if getattr(self.model, "attn_pool", None) is not None:
            self.model.attn_pool = None  # methods do the pooling
        if isinstance(patches := getattr(self.model, "patch_embed", None), PatchEmbed):
            patches.strict_img_size = False
        self.has_class_token = getattr(self.model, "cls_token", None) is not None
        if "return_prefix_tokens" in inspect.signature(self.model.forward_intermediates).parameters:
            self.class_blocks = len(self.model.feature_info)
        self.patch: int
        self.patch, width = (self.model.feature_info[-1][key] for key in ("reduction", "num_chs"))
        self.block_indices = [math.ceil(len(self.model.feature_info) * part / 4) - 1 for part in (1, 2, 3, 4)]
        doublings = [max(0, math.ceil(math.log2(self.patch / stride))) for stride in STRIDES]
        self.pyramid = nn.ModuleList()
        for count in doublings[:-1]:  # normalises the residual stream, then divides its channels by 2 at each doubling
            layers: list[nn.Module] = [LayerNorm2d(width)]
            for i in range(count):
                layers += [nn.GELU()] if i else []
                layers.append(nn.ConvTranspose2d(width >> i, width >> (i + 1), kernel_size=2, stride=2))
            self.pyramid.append(nn.Sequential(*layers))
        self._channels = [in_channels, 0, *(width >> count for count in doublings[:-1]), width]

    @property
    def channels(self) -> list[int]:
        return list(self._channels)

    def cubic(self, whose: str | None = None) -> Cubic:
        """Return the resampling of positions laid out as ``whose`` (None: this network); with registers, timm's."""
        return CUBICS["timm" if getattr(self.model, "reg_token", None) is not None else whose or self.positions]

    def forward(
        self,
        x: Tensor,
        with_tokens: bool = False,
        hidden: Tensor | None = None,
        fill: Tensor | None = None,
        finer: bool = True,
    ) -> list[Tensor] | tuple[list[Tensor], Tensor | None, Tensor, Tensor]:
        x = self._expanded(x)
        height, width = x.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(f"views of {height} x {width} pixels do not divide into patches of {self.patch}")
        with self._positions((height // self.patch, width // self.patch)), self._filled(hidden, fill):
            indices = self.block_indices if finer else self.block_indices[-1:]
            tokens, maps = self.model.forward_intermediates(x, indices=indices, output_fmt="NCHW")
        if isinstance(self.model.norm, nn.Identity):
            tokens = self.model.fc_norm(tokens)
        prefix = getattr(self.model, "num_prefix_tokens", 0)
        patches = tokens[:, prefix:]
        pyramid = [x, x.new_empty(x.shape[0], 0, height // 2, width // 2)]
        for level, features, stride in zip(self.pyramid, maps[:-1], STRIDES, strict=False):
            pyramid.append(averaged(level(features), (height // stride, width // stride)))
        pyramid.append(self.coarsest(patches, (height, width)))
        if not with_tokens:
            return pyramid
        first = int(self.has_class_token)
        return pyramid, tokens[:, 0] if first else None, tokens[:, first:prefix], patches

    def class_tokens(self, x: Tensor, blocks: int) -> list[Tensor]:
        x = self._expanded(x)
        height, width = x.shape[2:]
        with self._positions((height // self.patch, width // self.patch)):
            outputs = self.model.forward_intermediates(
                x, indices=blocks, return_prefix_tokens=True, norm=True, intermediates_only=True
            )
        last = self.model.fc_norm if isinstance(self.model.norm, nn.Identity) else nn.Identity()
        return [last(prefix[:, 0]) for _, prefix in outputs]

    def fitted(self, name: str, tensor: Tensor, file: Collection[str] = ()) -> Tensor:
        """Patches of another side are resampled."""
        return (
            resample_patch_embed(tensor, [*self.get_parameter(name).shape[2:]]) if is_kernel(name, tensor) else tensor
        )

    def coarsest(self, patches: Tensor, size: Sequence[int]) -> Tensor:
        grid = [side // self.patch for side in size]
        height, width = (side // STRIDES[-1] for side in size)
        return averaged(patches.transpose(1, 2).unflatten(2, grid), (height, width))

    @contextmanager
    def _filled(self, hidden: Tensor | None, fill: Tensor | None) -> Iterator[None]:
        """While this lasts, ``fill`` is what the backbone embeds ``hidden`` patches as."""
        if hidden is None or fill is None:
            yield
            return

        def filled(_: nn.Module, __: tuple[Tensor], embedded: Tensor) -> Tensor:
            # [b, n, dim], or of some backbones [b, rows, columns, dim]
            return torch.where(hidden.view(*embedded.shape[:-1], 1), fill.to(embedded.dtype), embedded)

        hook = self.model.patch_embed.register_forward_hook(filled)
        try:
            yield
        finally:
            hook.remove()

    @contextmanager
    def _positions(self, grid: tuple[int, int]) -> Iterator[None]:
        """While this lasts, the backbone's position embedding is one of a ``grid`` of patches (rows, columns)."""
        own = getattr(getattr(self.model, "patch_embed", None), "grid_size", grid)
        dynamic = getattr(self.model, "dynamic_img_size", False)
        if own == grid or dynamic or getattr(self.model, "pos_embed", None) is None:
            yield
            return
        prefix = self.model.pos_embed.shape[1] - own[0] * own[1]
        tokens, patches = self.model.pos_embed[:, :prefix], self.model.pos_embed[:, prefix:]
        embedding = torch.cat([tokens, resampled(patches, own, grid, self.cubic())], 1)
        vars(self.model)["pos_embed"] = embedding  # found before the parameter of this name
        try:
            yield
        finally:
            del vars(self.model)["pos_embed"]


def resampled(embedding: Tensor, grid: tuple[int, int], size: tuple[int, int], cubic: Cubic = CUBICS["timm"]) -> Tensor:
    """An ``embedding`` [1, n, dim] of a ``grid`` of patches for one of ``size``. By sums of products: torch's own adds
    gradients in any order on a GPU, and matrix products are of 16 bits under autocast."""
    rows, columns = (_weights(before, now, cubic, embedding) for before, now in zip(grid, size, strict=True))
    lines = (rows[:, :, None, None] * embedding.unflatten(1, grid)).sum(1)  # [rows of size, columns of grid, dim]
    return (columns[:, :, None] * lines[:, None]).sum(2).flatten(0, 1)[None]


def _weights(before: int, now: int, cubic: Cubic, like: Tensor) -> Tensor:
    """[now, before]: the filter along one axis. Beyond an end, a widened one has nothing, another the last position."""
    step = before / (now + cubic.offset)
    width, reach = (max(step, 1.0), 0) if cubic.widened else (1.0, 3)
    centres = (torch.arange(now, device=like.device, dtype=like.dtype) + 0.5) * step
    positions = torch.arange(-reach, before + reach, device=like.device)
    x = (positions + 0.5 - centres[:, None]).abs() / width
    near = ((cubic.a + 2) * x - (cubic.a + 3)) * x**2 + 1
    far = ((cubic.a * x - 5 * cubic.a) * x + 8 * cubic.a) * x - 4 * cubic.a
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0))
    inside = positions.clamp(0, before - 1)[:, None] == torch.arange(before, device=like.device)
    weights = (weights[:, :, None] * inside).sum(1)
    return weights / weights.sum(1, keepdim=True)


def averaged(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Adaptive average pooling [b, C, h, w] -> [b, C, *size]. torch's own adds gradients in any order on a GPU."""
    (h, w), (height, width) = features.shape[2:], size
    if (h, w) == size:
        return features
    if h % height == 0 and w % width == 0:
        windows = features.movedim(1, -1).unflatten(2, (width, w // width)).unflatten(1, (height, h // height))
        return windows.mean(4).mean(2).movedim(-1, 1).contiguous()  # tokens lie so: a fifth of the time on a CPU
    rows, columns = _windows(h, height, features), _windows(w, width, features)
    sums = rows @ features @ columns.T
    return sums / (rows.sum(1)[:, None] * columns.sum(1))


def _windows(length: int, count: int, like: Tensor) -> Tensor:
    """[count, length]: 1 in each of ``count`` windows, the i-th from floor(i n / m) to ceil((i + 1) n / m); else 0."""
    i, positions = (torch.arange(n, device=like.device) for n in (count, length))
    start, end = i * length // count, ((i + 1) * length + count - 1) // count
    inside = (positions >= start[:, None]) & (positions < end[:, None])
    return inside.to(like.dtype)
