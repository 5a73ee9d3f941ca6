"""Shared by corruptions: the samples that have one, random voxels by a key, boxes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import AtLeast
from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.views.parts import ViewPart

Params = Mapping[str, Tensor]
PerAxis = Annotated[int, AtLeast(1)] | tuple[Annotated[int, AtLeast(1)], ...]  # for all axes, or an entry for each
KEY = 2  # numbers that a key takes


def per_axis(value: PerAxis, dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value)


def key(u: np.ndarray) -> np.ndarray:
    """Return the key of random voxels: int64 [b] below 2^48, by ``u`` [b, 2], uniform in [0, 1)."""
    high, low = np.floor(u * 2**24).astype(np.int64).T
    return (high << 24) + low


def hashed(keys: Tensor, number: Tensor) -> Tensor:
    """32 random bits for each int32 ``number`` of a key: int32, in the shape that both broadcast to.

    Two rounds of multiplication and shifts (Wellons' lowbias32), the halves of the key before each. Half as wide as
    ``warp.uniform``, so that a CPU does eight at once.
    """
    x = number * signed(0x9E3779B1) + _signed32(keys)
    x ^= shifted(x, 16)
    x *= signed(0x7FEB352D)
    x ^= _signed32(keys >> 32) * signed(0x85EBCA6B)
    x ^= shifted(x, 15)
    x *= signed(0x846CA68B)
    x ^= shifted(x, 16)
    return x


def shifted(x: Tensor, bits: int, width: int = 32) -> Tensor:
    """To the right, as of unsigned numbers of ``width`` bits."""
    return (x >> bits).bitwise_and_((1 << (width - bits)) - 1)


def signed(x: int, width: int = 32) -> int:
    return x - (1 << width) if x >> (width - 1) else x


def _signed32(x: Tensor) -> Tensor:
    """The lower half of an int64."""
    return (((x & 0xFFFFFFFF) ^ 2**31) - 2**31).to(torch.int32)


def unit(bits: Tensor) -> Tensor:
    """``hashed`` bits as numbers in [0, 1): float32, multiples of 2^-24."""
    return shifted(bits, 8).float().mul_(2.0**-24)


def field(keys: Tensor, size: Sequence[int], channels: int = 1) -> Tensor:
    """For each of ``keys`` [b] voxels in [0, 1): float32 [b, channels, *size]."""
    number = torch.arange(channels * int(np.prod(size)), dtype=torch.int32, device=keys.device)
    return unit(hashed(keys[:, None], number)).view(len(keys), channels, *size)


def one_by_one(x: Tensor) -> bool:
    """Return whether to change samples one after another: on a CPU, but not tensors without values, as in planning."""
    return x.device.type == "cpu" and type(x) is Tensor


def of_some(x: Tensor, on: Tensor, params: Params, change: Callable[[Tensor, Params], Tensor]) -> Tensor:
    """``x`` [b, …], of which those samples are changed that are ``on`` [b]: all at once, or, on a CPU, one after
    another, as each then stays in its cache, and no others are computed."""
    if not one_by_one(x):
        return torch.where(per_sample(on, x), change(x, params), x)
    result = x.clone()
    for i in on.nonzero()[:, 0].tolist():
        result[i] = change(x[i : i + 1], {name: values[i : i + 1] for name, values in params.items()})[0]
    return result


class Sometimes(ViewPart):
    """A corruption that only those views have that are ``on``, bool [b] among its parameters."""

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return of_some(x, params["on"], params, self.changed)

    def changed(self, x: Tensor, params: Params) -> Tensor:
        """Return ``x`` [b, C, *size] with all its views corrupted."""
        raise NotImplementedError


def pasted(x: Tensor, other: Tensor, box: Tensor) -> Tensor:
    """``x`` [b, C, *size], with the voxels of ``other`` in a ``box`` [b, 2 n] of each sample; may overwrite ``x``."""
    n = box.shape[1] // 2
    if not one_by_one(x):
        return torch.where(inside(box, x.shape[2:])[:, None], other, x)
    for sample, source, row in zip(x, other.expand_as(x), box.tolist(), strict=True):
        at = (slice(None), *(slice(start, start + extent) for start, extent in zip(row[:n], row[n:], strict=True)))
        sample[at] = source[at]
    return x


def inside(box: Tensor, size: Sequence[int]) -> Tensor:
    """bool [b, *size]: within a ``box`` [b, 2 n] of each sample: where it starts on each axis, then its extents."""
    n, within = len(size), None
    for axis, side in enumerate(size):
        position = torch.arange(side, device=box.device)
        start, extent = box[:, axis, None], box[:, n + axis, None]
        here = (position >= start) & (position < start + extent)
        here = here.view(len(box), *(side if i == axis else 1 for i in range(n)))
        within = here if within is None else within & here
    assert within is not None
    return within
