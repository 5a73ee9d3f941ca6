"""Larger feature maps."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from dira_scale.train.data.batch import CHANNELS_LAST


def nearest(x: Tensor, size: Sequence[int]) -> Tensor:
    """[b, C, *sides] -> [b, C, *size] by nearest neighbours, in the type of ``x``.

    On GPUs autocast would compute it in fp32, and with it a concatenation: equal values at twice the memory traffic.
    """
    with unrounded(x):
        return F.interpolate(x, tuple(size), mode="nearest")


def nearest_beside(x: Tensor, skip: Tensor) -> Tensor:
    """A coarser map [b, C, *sides] as large as ``skip`` [b, c, *size], by nearest neighbours, and beside it ``skip``:
    [b, C + c, *size].

    On GPUs (and tensors without memory, which stand for theirs) a doubled map is written once, where it belongs. A
    compiler does so by itself, and a CPU sums such a map's gradients slowly.
    """
    doubles = skip.shape[2:] == torch.Size(2 * side for side in x.shape[2:]) and x.dtype == skip.dtype
    on_gpu = (x.is_cuda or isinstance(x, FakeTensor)) and not torch.compiler.is_compiling()
    return doubled_beside(x, skip) if doubles and on_gpu else torch.cat([nearest(x, skip.shape[2:]), skip], dim=1)


def doubled_beside(x: Tensor, skip: Tensor) -> Tensor:
    """:func:`nearest_beside` of ``x`` [b, C, *size / 2] in one concatenation: of views whose sides are pairs, where the
    coarser map has each element twice without a copy. In the layout of ``skip``."""
    (b, many, *half), few, size = x.shape, skip.shape[1], skip.shape[2:]
    last = not skip.is_contiguous() and skip.is_contiguous(memory_format=CHANNELS_LAST[skip.dim()])
    if last:
        x, skip = x.movedim(1, -1), skip.movedim(1, -1)

    def shape(channels: int, sides: Sequence[int]) -> tuple[int, ...]:
        return (b, *sides, channels) if last else (b, channels, *sides)

    once, twice = ([n for side in half for n in (side, copies)] for copies in (1, 2))
    coarse, fine = x.reshape(shape(many, once)).expand(shape(many, twice)), skip.reshape(shape(few, twice))
    y = torch.cat([coarse, fine], dim=-1 if last else 1).view(shape(many + few, size))
    return y.movedim(-1, 1) if last else y


def unrounded(x: Tensor) -> torch.autocast:
    """A context in which autocast leaves the type of ``x`` alone; on the meta device there is none."""
    return torch.autocast("cpu" if x.is_meta else x.device.type, enabled=False)
