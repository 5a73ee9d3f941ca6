"""Constants that every step needs on its device."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from etils.epy import lazy_imports

if TYPE_CHECKING:
    from torch import Tensor

with lazy_imports():
    import torch


Constants = Sequence[float] | Sequence[Sequence[float]]  # hashable


def constant(values: Constants, like: Tensor) -> Tensor:
    """``values``, a row or rows, as a tensor with the type and on the device of ``like``, to be read only.

    They are copied there once: a GPU's queue would run empty while the host waits for a copy.
    """
    return _copied(values, like.dtype, like.device, getattr(like, "fake_mode", None))


@lru_cache(64)
def _copied(values: Constants, dtype: torch.dtype, device: torch.device, plan: object) -> Tensor:
    """A ``plan``, whose tensors have no values, has its own."""
    with torch.inference_mode(False):  # a backward pass may read them later
        return torch.tensor(values, dtype=dtype, device=device)
