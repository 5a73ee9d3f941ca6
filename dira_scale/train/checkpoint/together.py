"""What the writers of a checkpoint do at the same time, each in a thread beside training, and what they know of each
other meanwhile: who works and who is gone."""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch.distributed as dist

from dira_scale.collectives import new_group, world

T = TypeVar("T")
Gather = Callable[[Any], list[Any]]

PULSE_SECONDS = 1.0
WORK_SECONDS = 1800.0  # a disk or store that takes longer for what one process writes hangs


class NotSavedError(Exception):
    """A run ends, and its newest checkpoint could not be written. Raised on all ranks alike."""


def over_processes() -> Gather:
    """Gathers a value from every process, in the writers' threads: by connections that nothing else uses. Collective.

    A writer that is gone ends the others' wait at once, one that does not answer after ``parallel.timeout`` seconds.
    """
    if world() == 1:
        return alone
    group = new_group(backend="gloo")

    def gather(value: Any) -> list[Any]:
        values = [None] * dist.get_world_size(group)
        dist.all_gather_object(values, value, group=group)
        return values

    return gather


def alone(value: Any) -> list[Any]:
    """The gathering of one process."""
    return [value]


class Writers:
    """All writers of a checkpoint, as each of them sees them.

    A slow disk or store is waited for, as long as all writers tell each other every second that they live.

    Args:
        gather: a value from each writer, by rank; the same call on all of them. Raises where one is gone.
    """

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self.pulse = 0  # moves on while all live and some work

    def each(self, work: Callable[[], T], what: str) -> list[T]:
        """What ``work`` returns on every writer, by rank; all of them call this.

        Raises:
            NotSavedError: on all, where one of them has worked for ``WORK_SECONDS``; ``what`` is not written then.
            Exception: what ``work`` raises, here only; what ``gather`` raises.
        """
        mine, start = _Work(work), time.monotonic()
        mine.start()
        while True:
            mine.join(PULSE_SECONDS)
            seconds = self._gather(time.monotonic() - start if mine.is_alive() else 0.0)
            self.pulse += 1
            if not any(seconds):
                return self._gather(mine.result())
            if late := [str(rank) for rank, worked in enumerate(seconds) if worked > WORK_SECONDS]:
                raise NotSavedError(
                    f"{what} is not written by rank(s) {', '.join(late)} after {WORK_SECONDS:g} s: the disk or store "
                    "hangs. Mend it and run the same command: it goes on from the one before"
                )


class _Work(threading.Thread, Generic[T]):
    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._work = work
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error  # raised by result()

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._value
