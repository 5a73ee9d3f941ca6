"""What one process finds out and all must know; an error of any of them ends all alike, and is said once.

For work that takes no longer than a collective may; see :mod:`dira_scale.distributed.long_work` for disks and stores.
Over gloo: asking neither needs a device nor waits for one.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch.distributed as dist

from dira_scale.distributed.collectives import control, world
from dira_scale.errors import UserError

T = TypeVar("T")


class AgreedError(UserError):
    """Raised on all processes alike: it is enough if the main one says it."""


class PrecedingError(Exception):
    """Comes before what any other process has found, and is raised on all as it is. To be derived from."""


class Failure(NamedTuple):
    """An error of one process as the others are told of it: they may not be able to unpickle that of a library."""

    kind: type[Exception]  # PrecedingError or one derived from it, UserError, or Exception for all else
    text: str
    host: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """``error`` as it is told."""
        if isinstance(error, PrecedingError):
            return cls(type(error), str(error), socket.gethostname())
        if isinstance(error, UserError):
            return cls(UserError, str(error), socket.gethostname())
        return cls(Exception, f"{type(error).__name__}: {error}", socket.gethostname())


def common_error(
    failures: Sequence[Failure | None], unexpected: Callable[[str], Exception] = RuntimeError
) -> Exception | None:
    """What all processes raise, given the failure of each, by rank; None where none of them failed.

    A :class:`PrecedingError` comes first, then the lowest rank's. It says which process on which machine, where not
    all of them found the same.

    Args:
        unexpected: makes an error of the text of one that is neither a PrecedingError nor a UserError.
    """
    found = [(rank, failure) for rank, failure in enumerate(failures) if failure is not None]
    if not found:
        return None
    rank, first = next(((r, f) for r, f in found if issubclass(f.kind, PrecedingError)), found[0])
    if issubclass(first.kind, PrecedingError):
        return first.kind(first.text)
    same = len(found) == len(failures) and len({failure.text for _, failure in found}) == 1
    text = first.text if same else f"rank {rank} on {first.host}: {first.text}"
    return AgreedError(text) if first.kind is UserError else unexpected(text)


def raise_on_all(function: Callable[[], T]) -> T:
    """``function()`` on every process; a ``UserError`` or ``PrecedingError`` of any of them is raised on all.

    Nothing in ``function`` may wait for another process.

    Raises:
        AgreedError, PrecedingError: as :func:`common_error` says.
    """
    result, failure = None, None
    try:
        result = function()
    except (UserError, PrecedingError) as error:
        failure = Failure.of(error)
    common = common_error(gather_objects(failure))
    if common is not None:
        raise common
    return result  # type: ignore[return-value]


def broadcast_from_main(value: T) -> T:
    """The main process's ``value``, on all of them."""
    values = [value]
    if world() > 1:
        dist.broadcast_object_list(values, group=control())
    return values[0]


def gather_objects(value: T) -> list[T]:
    """Every process's ``value``, by rank, on all of them."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=control())
    return values


def check_equal(facts: Mapping[str, str]) -> None:
    """Compare what must be the same on all processes with the main one's.

    Args:
        facts: values, or hashes of them, by the names that the message shall use.

    Raises:
        AgreedError: names the processes and machines that differ, and in what.
    """
    everyone = gather_objects((socket.gethostname(), dict(facts)))
    main_host, main = everyone[0]
    different: dict[str, list[str]] = {}
    for i, (host, theirs) in enumerate(everyone):
        what = [
            f"{name} ({theirs.get(name)} instead of {main.get(name)})"
            for name in sorted(main.keys() | theirs.keys())
            if theirs.get(name) != main.get(name)
        ]
        if what:
            different.setdefault(f"on {host} differ from rank 0 on {main_host} in {', '.join(what)}", []).append(str(i))
    if different:
        said = "; ".join(f"rank(s) {', '.join(ranks)} {text}" for text, ranks in different.items())
        raise AgreedError(f"{said}: give all nodes the same command, code, packages and data")
