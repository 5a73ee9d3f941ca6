"""Primus, a plain transformer of volumes with a light decoder (Wald et al., "Primus: Enforcing attention usage for 3D
medical image segmentation", 2025), by timm's EVA-02 blocks (``eva_block.py``)."""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from timm.layers import build_rotary_pos_embed
from torch import Tensor, nn

from dira_scale.train.models.linear import resized
from dira_scale.train.models.network import Encoder, Network, samples, taken
from dira_scale.train.models.translations import VIT3D, Rules
from dira_scale.train.models.volume.eva_block import FusedBlock

PATCH = 8  # voxels of a patch's side: three doublings lead back
SLOPE = 0.01  # of the LeakyReLU that convolutions are drawn for (their code)


class Transformer(nn.Module):
    """Patches [b, n, dim] of a ``grid`` (n = D · H · W, row by row) -> tokens [b, r + n, dim]: r registers first.

    Positions are learnt, an entry for each place of the grid that it is built for, and rotary: a third of a head's
    channels turns by the position along each axis, so that scores depend on differences. On another grid the learnt
    ones are resampled. Registers have no position (theirs learn one). All blocks are recomputed by activation
    checkpointing.
    """

    def __init__(self, dim: int, depth: int, heads: int, grid: Sequence[int], registers: int = 0) -> None:
        super().__init__()
        self.rotary_dim = dim // heads * 2 // 3  # of two axes, as timm counts
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim, *grid), std=0.02))
        self.register_tokens: nn.Parameter | None = None
        if registers:
            self.register_tokens = nn.Parameter(nn.init.normal_(torch.empty(1, registers, dim), std=1e-6))
        self.blocks = nn.ModuleList(FusedBlock(dim, heads, registers) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self._initialise()

    def forward(self, patches: Tensor, grid: Sequence[int], visible: Tensor | None = None) -> Tensor:
        """``visible``: int64 [b, v], the patches to compute with, as if there were no others: [b, r + v, dim]."""
        rope = _rotary(tuple(grid), self.rotary_dim, patches.device, getattr(patches, "fake_mode", None))
        tokens = patches + resized(self.pos_embed[None], grid).flatten(2).transpose(1, 2)
        if visible is not None:
            tokens, rope = taken(tokens, visible), rope[visible][:, None]
        if self.register_tokens is not None:
            tokens = torch.cat([self.register_tokens.expand(tokens.shape[0], -1, -1), tokens], 1)
        for block in self.blocks:
            tokens = block(tokens, rope)
        return self.norm(tokens)

    def _initialise(self) -> None:
        """Draw weights as EVA-02 does: what each block adds starts smaller, the deeper it is."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for i, block in enumerate(self.blocks, 1):
            for name in ("attn.proj.weight", "mlp.fc2.weight"):
                block.get_parameter(name).data /= math.sqrt(2 * i)


class ViT3DEncoder(Encoder):
    """[b, 1 or C, D, H, W] -> the volume itself, then one map, of the patches after the last block: 1/8 of its sides.

    Volumes of another size than it was built for get resampled positions. Stochastic depth (0.2 in their training) is
    off.
    """

    dimensions = 3
    name = "vit3d"
    layouts: ClassVar[Mapping[str, Rules]] = {"our own or Primus'": VIT3D}
    patch = visible_patch = PATCH

    def __init__(
        self, dim: int, depth: int, heads: int, size: Sequence[int], registers: int = 0, in_channels: int = 1
    ) -> None:
        super().__init__()
        self._in_channels, self.dim, self.heads, self.registers = in_channels, dim, heads, registers
        self.embed = nn.Conv3d(in_channels, dim, PATCH, stride=PATCH)
        _initialise(self.embed)
        self.transformer = Transformer(dim, depth, heads, [side // PATCH for side in size], registers)

    @property
    def channels(self) -> list[int]:
        return [self._in_channels, self.dim]

    def forward(
        self,
        x: Tensor,
        visible: Tensor | None = None,
        with_tokens: bool = False,
        hidden: Tensor | None = None,
        fill: Tensor | None = None,
        finer: bool = True,
    ) -> list[Tensor] | tuple[list[Tensor], None, Tensor, Tensor]:
        x = self._expanded(x)
        features = self.embed(x)
        grid, patches = features.shape[2:], features.flatten(2).transpose(1, 2)
        if hidden is not None and fill is not None:
            patches = torch.where(hidden[:, :, None], fill.to(patches.dtype), patches)
        tokens = self.transformer(patches, grid, visible)
        registers, patches = tokens.tensor_split([self.registers], 1)
        size = x.shape[2:] if visible is None else (PATCH * patches.shape[1], PATCH, PATCH)
        maps = [x, self.coarsest(patches, size)]
        return (maps, None, registers, patches) if with_tokens else maps

    def filler(self, depth: int, size: Sequence[int]) -> "Filler":
        return Filler(self.dim, depth, self.heads, [side // PATCH for side in size])

    def fitted(self, name: str, tensor: Tensor, file: Collection[str] = ()) -> Tensor:
        """Learnt positions [dim, *grid], or theirs [1, n, dim] of a cube or of this grid, are resampled for this one.

        nnssl's masked autoencoder numbers its patches (h w d) in a volume [w, h, d]. Its files get their first two axes
        exchanged: in learnt positions of a cube, and in the thirds of a head's channels that turn by them.
        """
        grid, exchanged = self.transformer.pos_embed.shape[1:], any("decoder.blocks." in entry for entry in file)
        if exchanged and name.endswith(("q_proj.weight", "q_proj.bias", "k_proj.weight")):
            return tensor.unflatten(0, (self.heads, 3, -1))[:, [1, 0, 2]].flatten(0, 2)
        if name != "transformer.pos_embed":
            return tensor
        if tensor.dim() == 3:
            count = tensor.shape[1]
            cube = 3 * (round(count ** (1 / 3)),)
            stored = cube if math.prod(cube) == count else grid
            registers = any(entry.endswith("register_tokens") for entry in file)  # theirs have positions, too
            if math.prod(stored) != count or registers or (exchanged and stored != cube):
                return tensor
            tensor = tensor[0].T.unflatten(1, stored)
            tensor = tensor.transpose(1, 2) if exchanged else tensor
        return resized(tensor[None], grid)[0] if tensor.dim() == 4 else tensor


class Filler(nn.Module):
    """Visible patches -> all of them: a learnt token in the places of hidden ones, then a transformer of its own
    (nnssl's masked autoencoder of Primus: two blocks).

    [b, dim, v, 1, 1] and ``visible`` [b, v] -> [b, dim, *grid].
    """

    def __init__(self, dim: int, depth: int, heads: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.grid = tuple(grid)
        self.token = nn.Parameter(nn.init.normal_(torch.empty(dim), std=1e-6))
        self.transformer = Transformer(dim, depth, heads, grid)

    def forward(self, patches: Tensor, visible: Tensor) -> Tensor:
        every = filled(patches.flatten(2).transpose(1, 2), visible, self.token, math.prod(self.grid))
        tokens: Tensor = self.transformer(every, self.grid)
        return tokens.transpose(1, 2).unflatten(2, self.grid)


class ViT3DDecoder(nn.Module):
    """The pyramid -> a map of half the volume's sides: doubled, normalised at each voxel, GELU, for each of
    ``channels``."""

    def __init__(self, dim: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose3d(coarser, finer, 2, 2), VoxelNorm(finer), nn.GELU())
            for coarser, finer in pairwise([dim, *channels])
        )
        self.apply(_initialise)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        x = pyramid[-1]
        for stage in self.stages:
            x = stage(x)
        return x


class VoxelNorm(nn.LayerNorm):
    """LayerNorm of the channels at each voxel of [b, C, D, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps).movedim(-1, 1)


class ViT3DNetwork(Network):
    """[b, 1 or C, D, H, W] -> logits [b, classes, D, H, W]; the head doubles the decoder's map a last time."""

    def __init__(self, encoder: Encoder, decoder_channels: Sequence[int], classes: int = 1) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, ViT3DDecoder(encoder.channels[-1], decoder_channels)
        self.head = nn.ConvTranspose3d(decoder_channels[-1], classes, 2, 2)
        _initialise(self.head)


def filled(patches: Tensor, visible: Tensor, token: Tensor, count: int) -> Tensor:
    """Return [b, count, dim]: ``patches`` [b, v, dim] in the places ``visible`` [b, v], ``token`` [dim] elsewhere."""
    every = token.to(patches.dtype).expand(patches.shape[0], count, -1)
    return every.index_put((samples(visible), visible), patches)


@lru_cache(16)
def _rotary(grid: tuple[int, ...], dim: int, device: torch.device, plan: object) -> Tensor:
    """Sines and cosines of all positions [n, 2 channels of a head], to be read only. A ``plan``, whose tensors have no
    values, has its own."""
    with torch.inference_mode(False):  # a backward pass may read them later
        return torch.cat(build_rotary_pos_embed([*grid], dim=dim, in_pixels=False, device=device), -1)


def _initialise(module: nn.Module) -> None:
    """Draw He's normal weights, as theirs."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
