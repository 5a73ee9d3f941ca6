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

from dira_scale.train.distributed import processes
from dira_scale.train.distributed.config import Parallel
from dira_scale.train.distributed.control import AgreedError, gather_objects, raise_on_all
from dira_scale.train.distributed.launcher import check_launch
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.signals import STOP_SIGNALS
from dira_scale.train.runs.exit_codes import BAD_INPUT

logger = logging.getLogger(__name__)

Work = TypeVar("Work")
Done = TypeVar("Done")
Received = list[int]  # the stop signals that have come


def on_processes(threads: int | str, timeout: int, precision: str, work: Callable[[World], int]) -> int:
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
    """Join the processes. Raises UserError as :func:`on_processes`."""
    parallel = Parallel(
        "ddp", accumulate=1, threads=threads, checkpoint_activations=False, channels_last=False, compile=False,
        offload=False, timeout=timeout,
    )  # fmt: skip
    check_launch(parallel, precision, None)
    return processes.start(parallel, precision)


def own_parts(world: World, parts: Sequence[Work]) -> Sequence[Work]:
    """The ``parts`` that this process makes, in their order."""
    return parts[world.rank :: world.ranks]


def rounds(
    world: World, parts: Sequence[Work], make: Callable[[Work, Received], Done]
) -> Iterator[tuple[list[Done], str]]:
    """Yield the results of all processes in each round, and the name of a signal that one of them has received, which
    ends the rounds.

    ``make`` gets a part and the signals so far, at which it should end soon. It must not wait for another process.
    Raises AgreedError for its UserError. Collective.
    """
    if world.main and (line := processes.crowded(world.idle, "threads")):
        logger.info(line)
    own = own_parts(world, parts)
    with _signals() as received:
        for number in range(math.ceil(len(parts) / world.ranks)):

            def result(number: int = number) -> list[Done]:  # none where other processes have one part more
                return [make(own[number], received)] if number < len(own) else []

            by_process = gather_objects((raise_on_all(result), received[:1]))
            stopped = next((signal.Signals(first[0]).name for _, first in by_process if first), "")
            yield [each for results, _ in by_process for each in results], stopped
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
