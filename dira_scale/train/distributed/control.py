"""Sharing values and errors between processes: an error of one ends all of them the same way, and is printed once.

For work that finishes within a collective's timeout; :mod:`dira_scale.train.distributed.long_work` is for disks and
stores. Over gloo, so no device is needed or waited for.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch.distributed as dist

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.border import advised
from dira_scale.base.errors import UserError
from dira_scale.train.distributed.collectives import control_group, world

if TYPE_CHECKING:  # imports accelerate
    from dira_scale.train.distributed.world import World

T = TypeVar("T")


class AgreedError(UserError):
    """Raised on all processes alike, so only the main one needs to print it."""


class PrecedingError(Exception):
    """Base of errors that take precedence over any other process's error, and are raised unchanged on all."""


class RunEndedError(Exception):
    """Training cannot continue. Raised on all processes; the message goes into status.json.

    Attributes:
        reported: whether the message has already been logged.
    """

    reported = False


class Failure(NamedTuple):
    """An error as it is sent to the other processes, which might be unable to unpickle a library's exception."""

    kind: type[Exception]  # PrecedingError or one derived from it, UserError, or Exception for all else
    text: str
    host: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        if isinstance(error, PrecedingError):
            return cls(type(error), str(error), socket.gethostname())
        if isinstance(error, UserError | ArgumentError):
            return cls(UserError, advised(error), socket.gethostname())
        return cls(Exception, f"{type(error).__name__}: {error}", socket.gethostname())


def common_error(
    failures: Sequence[Failure | None], unexpected: Callable[[str], Exception] = RuntimeError
) -> Exception | None:
    """The error that all processes raise, given each one's failure by rank; None if none of them failed.

    A :class:`PrecedingError` comes first, then the lowest rank's error. Unless all processes failed with the same
    text, the message names process and machine.

    Args:
        unexpected: makes the exception for a failure that is neither a PrecedingError nor a UserError.
    """
    failed = [(rank, failure) for rank, failure in enumerate(failures) if failure is not None]
    if not failed:
        return None
    rank, first = next(((r, f) for r, f in failed if issubclass(f.kind, PrecedingError)), failed[0])
    if issubclass(first.kind, PrecedingError):
        return first.kind(first.text)
    same = len(failed) == len(failures) and len({failure.text for _, failure in failed}) == 1
    text = first.text if same else f"rank {rank} on {first.host}: {first.text}"
    return AgreedError(text) if first.kind is UserError else unexpected(text)


def raise_on_all(function: Callable[[], T]) -> T:
    """``function()`` on every process; what one raises, if UserError, ArgumentError or PrecedingError, all do.

    ``function`` must not wait for another process.

    Raises AgreedError or PrecedingError, see :func:`common_error`.
    """
    result, failure = None, None
    try:
        result = function()
    except (UserError, ArgumentError, PrecedingError) as error:
        failure = Failure.of(error)
    common = common_error(gather_objects(failure))
    if common is not None:
        raise common
    return result  # type: ignore[return-value]


def on_main(world: "World", function: Callable[[], T]) -> T | None:
    """``function()`` on the main process, and None on the others; what it raises is raised on all, as by
    :func:`raise_on_all`. Collective."""
    return raise_on_all(lambda: function() if world.main else None)


def broadcast_from_main(value: T) -> T:
    """The main process's ``value``, on all of them."""
    values = [value]
    if world() > 1:
        dist.broadcast_object_list(values, group=control_group())
    return values[0]


def gather_objects(value: T, group: Any = None) -> list[T]:
    """Every process's ``value``, by rank, on all of them; through ``group`` instead of the control group."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=group or control_group())
    return values


def check_equal(facts: Mapping[str, str]) -> None:
    """Check that ``facts`` are the same on all processes.

    Args:
        facts: values, or hashes of them, keyed by their names in the error message.

    Raises AgreedError, which names the processes and machines that differ from the main process, and in what.
    """
    content = repr(sorted(facts.items())).encode()
    if len({*gather_objects(sha256(content).digest())}) == 1:  # of very many processes the facts themselves are long
        return
    by_rank = gather_objects((socket.gethostname(), dict(facts)))
    main_host, main = by_rank[0]
    different: dict[str, list[str]] = {}
    for i, (host, values) in enumerate(by_rank):
        what = [
            f"{name} ({values.get(name)} instead of {main.get(name)})"
            for name in sorted(main.keys() | values.keys())
            if values.get(name) != main.get(name)
        ]
        if what:
            different.setdefault(f"on {host} differ from rank 0 on {main_host} in {', '.join(what)}", []).append(str(i))
    if different:
        listed = "; ".join(f"rank(s) {', '.join(ranks)} {text}" for text, ranks in different.items())
        raise AgreedError(f"{listed}: give all nodes the same command, code, packages and data")
