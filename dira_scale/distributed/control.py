"""What one process finds out and all must know; what is wrong with one of them ends all, and is said once.

Over gloo: asking neither needs a device nor waits for one.
"""

import socket
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import Accelerator

from dira_scale.distributed.collectives import control, world
from dira_scale.errors import UserError

T = TypeVar("T")


class AgreedError(UserError):
    """Raised on all processes alike: it is enough if the main one says it."""


def on_main(accelerator: Accelerator, function: Callable[[], T]) -> T | None:
    """``function()`` on the main process, None on the others; its ``UserError`` is raised on all of them.

    What only the main process can find out (another writer, another run's folder) must not leave the rest waiting.
    """
    return together(function if accelerator.is_main_process else lambda: None)


def from_main(value: T) -> T:
    """The main process's ``value``, on all of them."""
    values = [value]
    if world() > 1:
        dist.broadcast_object_list(values, group=control())
    return values[0]


def together(function: Callable[[], T]) -> T:
    """``function()`` on every process; a ``UserError`` of any of them is raised on all.

    Nothing in ``function`` may wait for another process.

    Raises:
        AgreedError: says which process on which machine, where not all of them found the same.
    """
    try:
        result, problem = function(), ""
    except UserError as error:
        problem = str(error)
    problems = gathered(problem)
    first = next((i for i, text in enumerate(problems) if text), None)
    if first is None:
        return result
    who = (
        "" if len(set(problems)) == 1 or world() == 1 else f"rank {first} on {gathered(socket.gethostname())[first]}: "
    )
    raise AgreedError(who + problems[first])


def gathered(value: T) -> list[T]:
    """Every process's ``value``, by rank, on all of them."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value, group=control())
    return values


def refuse_differences(facts: Mapping[str, str]) -> None:
    """Compare what must be the same on all processes with the main one's.

    Args:
        facts: values, or hashes of them, by the names that the message shall use.

    Raises:
        AgreedError: names the processes and machines that differ, and in what.
    """
    everyone = gathered((socket.gethostname(), dict(facts)))
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
