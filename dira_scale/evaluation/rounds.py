"""Work of independent parts, on one process or several, that goes on where an earlier call was stopped: `embed` and
`predict`.

In each round every process makes a part, then they tell each other what came of it, and whether a signal has come.
"""

import logging
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from dira_scale.distributed import processes
from dira_scale.distributed.config import Parallel
from dira_scale.distributed.control import AgreedError, gather_objects, raise_on_all
from dira_scale.distributed.launcher import check_launch
from dira_scale.distributed.world import World
from dira_scale.engine.signals import STOP_SIGNALS
from dira_scale.runs.exit_codes import BAD_INPUT

logger = logging.getLogger(__name__)

Part = TypeVar("Part")
Made = TypeVar("Made")
Received = list[int]  # the stop signals that have come


def together(threads: int | str, timeout: int, precision: str, work: Callable[[World], int]) -> int:
    """The exit code of ``work``, which gets the processes that a launcher has started.

    Raises UserError for a launcher that contradicts the configuration. Collective.
    """
    world = connect(threads, timeout, precision)
    try:
        code = work(world)
    except AgreedError as error:
        if world.main:
            logger.error(error)
        world.wait()  # a launcher ends all when the first exits, which must not precede the message
        return BAD_INPUT
    world.end()
    return code


def connect(threads: int | str, timeout: int, precision: str) -> World:
    """Join the processes. Raises UserError as :func:`together`."""
    parallel = Parallel("ddp", 1, threads, False, False, False, False, timeout)
    check_launch(parallel, precision, None)
    return processes.start(parallel, precision)


def share(world: World, parts: Sequence[Part]) -> Sequence[Part]:
    """The ``parts`` that this process makes, in their order."""
    return parts[world.rank :: world.ranks]


def rounds(
    world: World, parts: Sequence[Part], make: Callable[[Part, Received], Made]
) -> Iterator[tuple[list[Made], str]]:
    """Yield the results of all processes in each round, and the name of a signal that one of them has received, which
    ends the rounds.

    ``make`` gets a part and the signals so far, at which it should end soon. It must not wait for another process.
    Raises AgreedError for its UserError. Collective.
    """
    if world.main and (line := processes.crowded(world.idle, "threads")):
        logger.info(line)
    mine = share(world, parts)
    with _signals() as received:
        for number in range(math.ceil(len(parts) / world.ranks)):

            def made(number: int = number) -> list[Made]:
                return [make(mine[number], received)] if number < len(mine) else []

            everyone = gather_objects((raise_on_all(made), received[:1]))
            stopped = next((signal.Signals(first[0]).name for _, first in everyone if first), "")
            yield [each for of, _ in everyone for each in of], stopped
            if stopped:
                return


@contextmanager
def _signals() -> Iterator[Received]:
    """The stop signals received meanwhile."""
    received: Received = []
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in STOP_SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
