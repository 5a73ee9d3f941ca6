"""What may be done to a view that is to be restored, beside what every view has: in any number of dimensions."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from dira_scale.errors import UserError


@runtime_checkable
class Corruption(Protocol):
    """One of ``ViewSpec.corruptions``: a small frozen dataclass, ours in ``data.distort.corruptions``, or yours.

    Nothing is drawn in ``apply``: random voxels come from a key among the parameters, by numbers that are counted
    (``data.distort.warp.uniform``), so that they depend neither on the device nor on the batch.
    """

    def numbers(self, size: Sequence[int]) -> int:
        """How many random numbers a view of ``size`` takes. Raises UserError for one that it cannot corrupt."""
        ...

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """The parameters of b views, each with first axis b, by ``u`` [b, numbers], uniform in [0, 1)."""
        ...

    def apply(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        """``x`` float32 [b, C, *size] in [0, 1], corrupted: all views at once, on any device."""
        ...


def check(corruptions: Mapping[str, Corruption], size: Sequence[int]) -> None:
    """Raise UserError, naming the key, for what is no corruption, or none of views of ``size``."""
    for name, corruption in corruptions.items():
        if not isinstance(corruption, Corruption):
            raise UserError(
                f"corruptions.{name}: expected {{_target_: …}} with numbers, draw and apply, such as "
                f"BlockMask; got {corruption!r}"
            )
        try:
            corruption.numbers(size)
        except UserError as error:
            raise UserError(f"corruptions.{name}: {error}") from error
