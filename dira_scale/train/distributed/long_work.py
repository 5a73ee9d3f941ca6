"""Work on disks and stores that all processes do at the same time, each in a thread. Meanwhile they report to each
other that they are alive, have failed or are done.

Like :mod:`dira_scale.train.distributed.control`, but for work that may outlast a collective's timeout.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import Any, NamedTuple, TypeVar

from dira_scale.train.distributed.collectives import new_group, rank, world
from dira_scale.train.distributed.control import Failure, common_error, gather_objects
from dira_scale.train.distributed.timings import TIMINGS

T = TypeVar("T")
Gather = Callable[[Any], list[Any]]  # a value from each process, by rank; raises if one is gone

logger = logging.getLogger(__name__)


def gather_beside_training() -> Gather:
    """A function that gathers a value from every process over a group that nothing else uses. Collective.

    If a process dies, the function raises at once; if one does not answer, after ``parallel.timeout`` seconds.
    """
    return partial(gather_objects, group=new_group("checkpoints", backend="gloo") if world() > 1 else None)


class LongWork:
    """Work of all processes that a slow disk or store may delay, as long as each reports every second that it lives."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self.signs_of_life = 0  # counts up while all are alive and some still work

    def results_of_all(self, work: Callable[[], T], failing: str, unexpected: type[Exception]) -> list[T]:
        """Run ``work``, and return its results on every process, by rank. Raises as :meth:`raise_on_all`."""
        return self._gather(self.raise_on_all(work, failing, unexpected))

    def raise_on_all(self, work: Callable[[], T], failing: str, unexpected: type[Exception]) -> T:
        """Run ``work``, and return its result here once all processes have finished theirs. All of them call this.

        Args:
            failing: how the message of a failure begins: "the checkpoint of step 3 is not written".

        Raises:
            PrecedingError, AgreedError: on all, see :func:`dira_scale.train.distributed.control.common_error`.
            unexpected: on all, if ``work`` raises anything else on one of them, which also logs it, or takes longer
                than ``TIMINGS.hang_after``, not counting time in which the process was suspended.
            Exception: what ``gather`` raises.
        """
        future, seconds = _started(work), 0.0
        while True:
            wait([future], TIMINGS.pulse)
            seconds += TIMINGS.pulse
            done = future.done()
            error = future.exception() if done else None
            report = _Report(0.0 if done else seconds, Failure.of(error) if error else None)
            states: list[_Report] = self._gather(report)
            self.signs_of_life += 1
            if not any(state.working for state in states):
                break
            if late := [str(i) for i, state in enumerate(states) if state.working > TIMINGS.hang_after]:
                raise unexpected(
                    f"{failing} by rank(s) {', '.join(late)} after {TIMINGS.hang_after:g} s: the disk or store hangs. "
                    "Fix it, then run the same command again: it resumes from the newest complete checkpoint"
                )
        if common := common_error([state.failure for state in states], lambda text: unexpected(f"{failing}: {text}")):
            raise common from error
        return future.result()


class _Report(NamedTuple):
    working: float  # seconds of work so far, without suspensions; 0 when finished
    failure: Failure | None = None


def _started(work: Callable[[], T]) -> Future[T]:
    """``work`` in a thread of its own, which is a daemon: one that hangs must not keep the process from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # reported to all
            if Failure.of(error).kind is Exception:
                logger.error("rank %d failed", rank(), exc_info=error, extra={"every_rank": True})
            future.set_exception(error)

    threading.Thread(target=run, name="long work", daemon=True).start()
    return future
