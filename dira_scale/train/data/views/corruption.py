"""Corruptions of a view that is to be restored, beyond what every view has, in any number of dimensions."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from dira_scale.base.arguments import ArgumentError, inside


@runtime_checkable
class Corruption(Protocol):
    """One of ``ViewSpec.corruptions``: a small frozen dataclass, ours in ``train.data.distort.corruptions``, or yours.

    Nothing is drawn in ``apply``: random voxels come from a key among the parameters, by numbers that are counted
    (``train.data.distort.warp.uniform``), so that they depend neither on the device nor on the batch.
    """

    def numbers(self, size: Sequence[int]) -> int:
        """Return the number of random numbers that a view of ``size`` takes. Raises ValueError, or ArgumentError for
        one of its own arguments, if it cannot corrupt such a view."""
        ...

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """The parameters of b views, each with first axis b, by ``u`` [b, numbers], uniform in [0, 1)."""
        ...

    def apply(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``x`` float32 [b, C, *size] in [0, 1], corrupted: all views at once, on any device."""
        ...


def check(corruptions: Mapping[str, Corruption], size: Sequence[int]) -> None:
    """Raise ArgumentError, by the name of the corruption, for what is none, or none of views of ``size``."""
    for name, corruption in corruptions.items():
        with inside(name):
            if not isinstance(corruption, Corruption):
                raise ArgumentError("", corruption, "a corruption, with numbers, draw and apply, such as BlockMask")
            corruption.numbers(size)
