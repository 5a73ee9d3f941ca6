"""What all processes do with a checkpoint at the same time, each in a thread, and what they know of each other
meanwhile: who works, who has failed and who is gone."""

import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import torch.distributed as dist

from dira_scale.distributed.collectives import new_group, world
from dira_scale.distributed.timings import TIMINGS
from dira_scale.errors import UserError
from dira_scale.runs.lease import LeaseLostError

T = TypeVar("T")
Gather = Callable[[Any], list[Any]]


class NotSavedError(Exception):
    """A run ends, and its newest checkpoint could not be written. Raised on all ranks alike."""


def over_processes() -> Gather:
    """Gathers a value from every process, beside training, by connections that nothing else uses. Collective.

    One that is gone ends the others' wait at once, one that does not answer after ``parallel.timeout`` seconds.
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
    """All processes that write a checkpoint or read it, as each of them sees them.

    A slow disk or store is waited for, as long as all of them tell each other every second that they live.

    Args:
        gather: a value from each of them, by rank; the same call on all. Raises where one is gone.
    """

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self.pulse = 0  # moves on while all live and some work

    def each(self, work: Callable[[], T], lacking: str) -> list[T]:
        """What ``work`` returns on every one of them, by rank. Raises as :meth:`own`."""
        return self._gather(self.own(work, lacking))

    def own(self, work: Callable[[], T], lacking: str, ends: type[Exception] = NotSavedError) -> T:
        """What ``work`` returns here, once all of them have done theirs; all of them call this.

        Args:
            lacking: what is the matter where this fails: "the checkpoint of step 3 is not written".

        Raises:
            LeaseLostError, UserError: on all, what ``work`` raises on one of them.
            ends: on all, where ``work`` raises something else on one of them, which prints it as well, or takes longer
                than ``TIMINGS.work``, in which the process ran: one that was suspended and goes on is not late.
            Exception: what ``gather`` raises.
        """
        mine, pulses = _Work(work), 0
        mine.start()
        while True:
            mine.join(TIMINGS.pulse)
            pulses += 1
            states: list[_State] = self._gather(mine.state(pulses))
            self.pulse += 1
            if not any(state.pulses for state in states):
                break
            if late := [str(rank) for rank, s in enumerate(states) if s.pulses * TIMINGS.pulse > TIMINGS.work]:
                raise ends(
                    f"{lacking} by rank(s) {', '.join(late)} after {TIMINGS.work:g} s: the disk or store hangs. Mend "
                    "it and run the same command: it goes on from the newest whole checkpoint"
                )
        if any(state.error for state in states):
            raise _agreed(states, lacking, ends) from mine.error
        return mine.value


class _State(NamedTuple):
    """Of one process: for how many pulses it has worked, 0 when it has ended; and of what, if not well."""

    pulses: int
    error: type[Exception] | None = None
    text: str = ""
    host: str = ""


class _Work(threading.Thread, Generic[T]):
    value: T

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._work = work
        self._end = _State(0)
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.value = self._work()
        except BaseException as error:  # all are told
            self.error = error
            self._end = _told(error)

    def state(self, pulses: int) -> _State:
        return _State(pulses) if self.is_alive() else self._end


def _told(error: BaseException) -> _State:
    """As what all raise it: the others may not be able to unpickle an error of a library."""
    host = socket.gethostname()
    for kind in (LeaseLostError, UserError):
        if isinstance(error, kind):
            return _State(0, kind, str(error), host)
    traceback.print_exception(error)
    return _State(0, RuntimeError, f"{type(error).__name__}: {error}", host)


def _agreed(states: list[_State], lacking: str, ends: type[Exception]) -> Exception:
    """What all processes raise: that the run is another's by now, or else what the first found that found something."""
    found = [(rank, state) for rank, state in enumerate(states) if state.error]
    rank, state = next(((r, s) for r, s in found if s.error is LeaseLostError), found[0])
    if state.error is LeaseLostError:
        return LeaseLostError(state.text)
    who = "" if len({s.text for s in states}) == 1 else f"rank {rank} on {state.host}: "
    return UserError(who + state.text) if state.error is UserError else ends(f"{lacking}: {who}{state.text}")
