"""What takes part in a case."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from dira_scale.errors import UserError


def nothing() -> None:
    """What closing most contenders takes."""


@dataclass(frozen=True)
class Contender:
    """One way to load.

    Attributes:
        name: in the table, the same in every case.
        kind: ``ours``, ``others`` (measured against ours) or ``limit``.
        run: of a number of batches: yields them, each the views, arrays or tensors [B, C, 224, 224]; a limit may yield
            nothing. Begins with nothing prepared and ends with nothing left, so that no contender works in another
            one's turn.
        reads: whether it reads files in every turn; else it holds the encoded images in memory, or maps them.
        close: ends its processes.
    """

    name: str
    kind: str
    run: Callable[[int], Iterator[Sequence[Any]]]
    reads: bool = True
    close: Callable[[], None] = nothing


def require(module: str, extra: str) -> None:
    """Raises UserError, which names the extra to install, unless ``module`` is installed."""
    if find_spec(module.partition(".")[0]) is None or find_spec(module) is None:
        raise UserError(f"{module} is not installed: pip install 'dira_scale[{extra}]'")
