"""What all processes do at the same time on disks and stores, each in a thread, and what they know of each other
meanwhile: who works, who has failed and who is gone.

As :mod:`dira_scale.distributed.control`, for work that may take longer than a collective.
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
Gather = Callable[[Any], list[Any]]  # a value from each process, by rank; raises where one is gone

logger = logging.getLogger(__name__)


def gather_beside_training() -> Gather:
    """Gathers a value from every process by connections that nothing else uses. Collective.

    One that is gone ends the others' wait at once, one that does not answer after ``parallel.timeout`` seconds.
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
    """The gathering of one process."""
    return [value]


class LongWork:
    """Work of all processes that a slow disk or store may delay, as long as each tells the others every second that it
    lives.

    Attributes:
        signs_of_life: grows while all live and some work.
    """

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self.signs_of_life = 0

    def results_of_all(self, work: Callable[[], T], failing: str, unexpected: type[Exception]) -> list[T]:
        """What ``work`` returns on every process, by rank. Raises as :meth:`raise_on_all`."""
        return self._gather(self.raise_on_all(work, failing, unexpected))

    def raise_on_all(self, work: Callable[[], T], failing: str, unexpected: type[Exception]) -> T:
        """What ``work`` returns here, once all processes have done theirs; all of them call this.

        Args:
            failing: what is the matter where this fails: "the checkpoint of step 3 is not written".

        Raises:
            PrecedingError, AgreedError: on all, as :func:`dira_scale.distributed.control.common_error` says.
            unexpected: on all, where ``work`` raises something else on one of them, which logs it as well, or takes
                longer than ``TIMINGS.work``, in which the process ran: one that was suspended and goes on is not late.
            Exception: what ``gather`` raises.
        """
        mine, seconds = _Work(work), 0.0
        mine.start()
        while True:
            mine.join(TIMINGS.pulse)
            seconds += TIMINGS.pulse
            states: list[_State] = self._gather(mine.state(seconds))
            self.signs_of_life += 1
            if not any(state.working for state in states):
                break
            if late := [str(i) for i, state in enumerate(states) if state.working > TIMINGS.work]:
                raise unexpected(
                    f"{failing} by rank(s) {', '.join(late)} after {TIMINGS.work:g} s: the disk or store hangs. Fix "
                    "it, then run the same command again: it resumes from the newest whole checkpoint"
                )
        if error := common_error([state.failure for state in states], lambda text: unexpected(f"{failing}: {text}")):
            raise error from mine.error
        return mine.value


class _State(NamedTuple):
    """Of one process."""

    working: float  # for how many seconds, in which it ran, it has worked; 0 when it has ended
    failure: Failure | None = None


class _Work(threading.Thread, Generic[T]):
    value: T

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(name="long work", daemon=True)
        self._work = work
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:  # all are told
            self.error = error
            if Failure.of(error).kind is Exception:
                logger.error("rank %d failed", rank(), exc_info=error, extra={"every_rank": True})

    def state(self, seconds: float) -> _State:
        if self.is_alive():
            return _State(seconds)
        return _State(0.0, None if self.error is None else Failure.of(self.error))
