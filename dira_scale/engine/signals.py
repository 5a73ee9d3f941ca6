"""Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 request a checkpoint and an orderly end; all ranks agree on the step."""

import signal
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from dira_scale.distributed.collectives import new_group, world

REPEAT_SECONDS = 2.0  # one Ctrl-C may arrive twice: from the terminal, and from the launcher, which forwards it
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Remembers the first signal; another Ctrl-C, some time later, ends the process at once.

    Use as a context manager, and report inside it why the process ends: a launcher may meanwhile send a signal because
    another process died. On exit, the handlers from before :meth:`listen` are restored.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._when = 0.0
        self._group: Any = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Signals":
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Handle signals from now on. Collective."""
        # Its own CPU group: the query in each step must not wait for the device.
        self._group = new_group(backend="gloo") if world() > 1 else None
        self._before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}

    def agreed(self) -> str:
        """Name of the signal that any rank received, the same answer on every rank; empty if none."""
        number = self.received
        if self._group is not None:
            flag = torch.tensor([number])
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
            number = int(flag)
        return signal.Signals(number).name if number else ""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received and time.monotonic() - self._when > REPEAT_SECONDS:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._when = number, time.monotonic()
