"""Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 request a checkpoint and an orderly end; all ranks agree on the step."""

import logging
import select
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from dira_scale.train.distributed.collectives import control_group, new_group, world

REPEAT_SECONDS = 2.0  # one Ctrl-C may arrive twice: from the terminal, and from the launcher, which forwards it
RANKS_A_STEP = 256  # of a ring of two hops a rank, some 20 ms: so many ranks' message is out before a step has ended
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
logger = logging.getLogger(__name__)


class Signals:
    """Remembers the first signal and says so at once; another Ctrl-C, some time later, raises ``KeyboardInterrupt``.

    Python runs a handler between two instructions of the main thread, so not before a long convolution has ended. When
    a signal *arrived* is known from the pipe into which Python's own C handler writes, and a thread that reads it.

    Use as a context manager, and report inside it why the process ends: a launcher may meanwhile send a signal because
    another process died. On exit, the handlers from before :meth:`listen` are restored.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._when = 0.0  # the first signal arrived
        self._unsaid = self._again = self._ended = False
        self._group: Any = None
        self._question: Any = None  # under way: has any rank received a signal?
        self._calls = 0
        self._before: dict[signal.Signals, Any] = {}
        self._lock = threading.RLock()  # a handler may interrupt another
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._thread is not None:
            signal.set_wakeup_fd(self._wakeup_before)
            self._ended = True
            self._wake()
            self._thread.join()
            self._pipe.close()
            self._arrivals.close()

    def listen(self) -> None:
        """Handle signals from now on. Collective."""
        # The question in each step waits neither for the device nor for a checkpoint's messages, which another thread
        # sends. It has a group of its own where the control messages' is that of the gradients.
        self._group = None if world() == 1 else control_group() or new_group("signals", backend="gloo")
        self._arrivals, self._pipe = socket.socketpair()
        self._pipe.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._pipe.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._say, name="signals", daemon=True)
        self._thread.start()
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}

    def agreed(self, wait: bool = False) -> str:
        """Name of the signal that any rank had received at the previous call; empty if none. Collective.

        Every rank gets the same answer at the same call. No rank waits for those that are still in their step: the
        question of each call is answered while the next step is computed. Very many ranks ask, and have their answer,
        only every :func:`interval` calls.

        Args:
            wait: for this call's answer, so that nothing is under way afterwards. A single process never lags.

        Raises RuntimeError if another process is gone or no longer answers.
        """
        if self._group is None:
            return _name(self.received)
        self._calls += 1
        if not wait and self._calls % interval(world()):
            return ""
        number = self._answer()
        if not number:  # the same on all ranks
            self._flag = torch.tensor([self.received])
            self._question = dist.all_reduce(self._flag, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
            number = self._answer() if wait else 0
        return _name(number)

    def lost(self) -> bool:
        """Return whether the pending question has failed because another process is gone. From any thread."""
        question = self._question
        if question is None or not question.is_completed():
            return False
        try:
            question.wait()
        except RuntimeError:
            return True
        return False

    def _answer(self) -> int:
        """Return, of the question under way, the largest of the signals' numbers; 0 without a question."""
        if self._question is None:
            return 0
        self._question.wait()  # gloo's error, if a process has died
        self._question = None
        return int(self._flag)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._read()
        if not self.received:  # another library has taken Python's pipe
            self._note(number)
        self._wake()  # what was read here, the thread is to say
        if self._again:
            self._again = False
            raise KeyboardInterrupt

    def _say(self) -> None:
        """In the thread: say that a signal has arrived, however long the main thread takes to handle it."""
        waiting = select.poll()
        waiting.register(self._arrivals, select.POLLIN)
        while not self._ended:
            waiting.poll()
            self._read()
            if self._unsaid:
                self._unsaid = False
                steps = 2 * interval(world()) - 1
                more = "" if self._group is None else f" and at most {'one' if steps == 1 else steps} more"
                again = "; again ends without one" if self.received == signal.SIGINT else ""
                logger.info("%s: finishing this step%s, then a checkpoint%s", _name(self.received), more, again)

    def _read(self) -> None:
        """Note the signals that have arrived, in whichever thread comes first."""
        with self._lock, suppress(BlockingIOError):
            for number in self._arrivals.recv(64, socket.MSG_DONTWAIT):
                if number in STOP_SIGNALS:
                    self._note(number)

    def _note(self, number: int) -> None:
        if not self.received:
            self.received, self._when, self._unsaid = number, time.monotonic(), True
        elif number == signal.SIGINT and time.monotonic() - self._when > REPEAT_SECONDS:
            self._again = True

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            self._pipe.send(b"\0")


def _name(number: int) -> str:
    """``SIGTERM`` for 15; empty for 0."""
    return signal.Signals(number).name if number else ""


def interval(ranks: int) -> int:
    """Steps between two questions whether a signal has arrived."""
    return 1 + ranks // RANKS_A_STEP
