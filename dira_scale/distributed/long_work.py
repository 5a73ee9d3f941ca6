"""Work on disks and stores that all processes do at the same time, each in a thread. Meanwhile they report to each
other that they are alive, have failed or are done.

Like :mod:`dira_scale.distributed.control`, but for work that may outlast a collective's timeout.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch.distributed as dist

from dira_scale.distributed.collectives import new_group, rank, world
from dira_scale.distributed.control import Failure, common_error
from dira_scale.distributed.timings import TIMINGS

T = TypeVar("T")
Gather = Callable[[Any], list[Any]]  # a value from each process, by rank; raises if one is gone

logger = logging.getLogger(__name__)


def gather_beside_training() -> Gather:
    """A function that gathers a value from every process over a group that nothing else uses. Collective.

    If a process dies, the function raises at once; if one does not answer, after ``parallel.timeout`` seconds.
    """
    if world() == 1:
        return gather_alone
    group = new_group(backend="gloo")

    def gather(value: Any) -> list[Any]:
        values = [None] * dist.get_world_size(group)
        dist.all_gather_object(values, value, group=group)
        return values

    return gather


def gather_alone(value: Any) -> list[Any]:
    """:data:`Gather` of a single process."""
    return [value]


class LongWork:
    """Work of all processes that a slow disk or store may delay, as long as each reports every second that it is alive.

    Attributes:
        signs_of_life: counts up while all are alive and some still work.
    """

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self.signs_of_life = 0

    def results_of_all(self, work: Callable[[], T], failing: str, unexpected: type[Exception]) -> list[T]:
        """What ``work`` returns on every process, by rank. Raises as :meth:`raise_on_all`."""
        return self._gather(self.raise_on_all(work, failing, unexpected))

    def raise_on_all(self, work: Callable[[], T], failing: str, unexpected: type[Exception]) -> T:
        """What ``work`` returns here, once all processes have finished theirs. All of them call this.

        Args:
            failing: how the message of a failure begins: "the checkpoint of step 3 is not written".

        Raises:
            PrecedingError, AgreedError: on all, see :func:`dira_scale.distributed.control.common_error`.
            unexpected: on all, if ``work`` raises anything else on one of them, which also logs it, or takes longer
                than ``TIMINGS.hang_after``, not counting time in which the process was suspended.
            Exception: what ``gather`` raises.
        """
        mine, seconds = _WorkThread(work), 0.0
        mine.start()
        while True:
            mine.join(TIMINGS.pulse)
            seconds += TIMINGS.pulse
            states: list[_Report] = self._gather(mine.state(seconds))
            self.signs_of_life += 1
            if not any(state.working for state in states):
                break
            if late := [str(i) for i, state in enumerate(states) if state.working > TIMINGS.hang_after]:
                raise unexpected(
                    f"{failing} by rank(s) {', '.join(late)} after {TIMINGS.hang_after:g} s: the disk or store hangs. "
                    "Fix it, then run the same command again: it resumes from the newest complete checkpoint"
                )
        if error := common_error([state.failure for state in states], lambda text: unexpected(f"{failing}: {text}")):
            raise error from mine.error
        return mine.value


class _Report(NamedTuple):
    """What a process reports."""

    working: float  # seconds of work so far, without suspensions; 0 when finished
    failure: Failure | None = None


class _WorkThread(threading.Thread, Generic[T]):
    value: T

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(name="long work", daemon=True)
        self._work = work
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:  # reported to all by state()
            self.error = error
            if Failure.of(error).kind is Exception:
                logger.error("rank %d failed", rank(), exc_info=error, extra={"every_rank": True})

    def state(self, seconds: float) -> _Report:
        if self.is_alive():
            return _Report(seconds)
        return _Report(0.0, None if self.error is None else Failure.of(self.error))
