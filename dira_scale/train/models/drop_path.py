"""Stochastic depth (Huang et al., ECCV 2016) drawn by positions in the global batch: however many processes and
micro-batches hold it, the same samples lose the same paths.

Every process draws for all rows of a layer's global input from torch's generator, which the engine seeds alike, and
takes its own. Activation checkpointing restores the generator, and so draws the same again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from timm.layers import DropPath as TimmDropPath
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from dira_scale.train.models.kept_rows import Branch, added

GROUP = 16  # successive rows
LOWEST = 0.1  # a block of a higher rate computes a part of each group (DINOv2's code); of others gathering costs more
_part, _parts = 0, 1


@contextmanager
def part_of_batch(part: int, parts: int) -> Iterator[None]:
    """While this lasts, networks see number ``part`` of the ``parts`` equal, successive parts of the global batch; the
    rows of a layer's input go sample by sample."""
    global _part, _parts
    before = _part, _parts
    _part, _parts = part, parts
    try:
        yield
    finally:
        _part, _parts = before


class DropPath(TimmDropPath):
    """timm's, of which each row [b, ...] is 0 with probability ``drop_prob``, by its position in the global batch."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        kept = torch.rand(len(x) * _parts, device=x.device) >= self.drop_prob
        return _masked(x, _own(kept, len(x)), 1 - self.drop_prob if self.scale_by_keep else 1.0)


class GroupedDropPath(DropPath):
    """Drops, of every ``GROUP`` successive rows of the global input, as many as the rate says, to the nearest whole
    number (5 of 16 at 0.3); each row by itself if they are no whole groups. A row's expected result is that without
    dropping, as the others are divided by the share that is kept.
    """

    def around(self, x: Tensor, norm: nn.Module, branch: Branch, gamma: Tensor | None, own: bool = False) -> Tensor:
        """``x`` [b, n, dim] + ``gamma`` [dim] · ``branch(norm(x))`` of the rows that are kept. No others are computed
        (released code of DINOv2), unless another process or micro-batch has the rest of a group. ``own``: see
        :func:`added`."""
        count = len(x)
        if not self.training or not self.drop_prob or count * _parts % GROUP:
            return x + self(_scaled(branch(norm(x)), gamma))
        kept = max(round(GROUP * (1 - self.drop_prob)), 1)
        order = torch.rand(count * _parts // GROUP, GROUP, device=x.device).argsort(stable=True)
        if count % GROUP:
            mask = _own((order.argsort() < kept).flatten(), count)
            return x + _masked(_scaled(branch(norm(x)), gamma), mask, kept / GROUP)
        order = _own(order, count // GROUP) + torch.arange(0, count, GROUP, device=x.device)[:, None]
        return added(x, norm, branch, gamma, order, kept, own)


@torch.compiler.disable  # its part is a constant to a compiler, which would compile each micro-batch anew
def _own(x: Tensor, count: int) -> Tensor:
    """This part's ``count`` rows of all parts'."""
    return x[_part * count : (_part + 1) * count]


def _masked(x: Tensor, kept: Tensor, share: float) -> Tensor:
    """``x`` [b, ...] with zeros in rows that are not ``kept`` [b], the others divided by the ``share`` that is."""
    return x * (kept.to(x.dtype) / share).view(-1, *[1] * (x.dim() - 1))


def _scaled(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma


def _added(
    x: Tensor, drop: nn.Module, norm: nn.Module, branch: Branch, gamma: Tensor | None, own: bool = False
) -> Tensor:
    drops = isinstance(drop, TimmDropPath) and drop.training and drop.drop_prob
    if gamma is not None and not drops:
        return torch.addcmul(x, branch(norm(x)), gamma)
    if isinstance(drop, GroupedDropPath):
        return drop.around(x, norm, branch, gamma, own)
    y: Tensor = drop(_scaled(branch(norm(x)), gamma))
    return x + y


# What is between a block's branches is the block's alone, and so is its gradient (``own``).
class _Block(Block):
    """timm's, with fewer rows in a branch."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        attn = partial(self.attn, attn_mask=attn_mask, is_causal=is_causal)
        x = _added(x, self.drop_path1, self.norm1, attn, getattr(self.ls1, "gamma", None), own=True)
        return _added(x, self.drop_path2, self.norm2, self.mlp, getattr(self.ls2, "gamma", None))


class _EvaBlock(EvaBlock):
    """timm's, with fewer rows in a branch; all have the same rotary positions."""

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        attn = partial(self.attn, rope=rope, attn_mask=attn_mask, is_causal=is_causal)
        x = _added(x, self.drop_path1, self.norm1, attn, self.gamma_1, own=True)
        return _added(x, self.drop_path2, self.norm2, self.mlp, self.gamma_2)


OURS: dict[type[nn.Module], type[nn.Module]] = {Block: _Block, EvaBlock: _EvaBlock}


def drop_by_position(network: nn.Module) -> None:
    """Give each of timm's ``DropPath`` in ``network`` our draws. Transformers' blocks then compute what they keep."""
    for layer in [*network.modules()]:
        if type(layer) is TimmDropPath:
            layer.__class__ = DropPath
        paths = [path for path in layer.children() if isinstance(path, TimmDropPath) and path.drop_prob > LOWEST]
        if type(layer) in OURS and paths:
            layer.__class__ = OURS[type(layer)]
            for path in paths:
                path.__class__ = GroupedDropPath
