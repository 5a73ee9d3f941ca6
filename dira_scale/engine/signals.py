"""Ctrl-C, SIGTERM, SIGUSR1 and SIGUSR2 ask for a checkpoint and an orderly end; all ranks agree on the step."""

import signal
import time
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from dira_scale.distributed.collectives import new_group, world

IMPATIENT_SECONDS = 2.0  # a launcher passes Ctrl-C on although the terminal sent it too: one wish, two signals
ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Remembers the first signal; another Ctrl-C, some time later, ends the process at once, as ever.

    Use as a context manager, inside which the process also says why it ends: a launcher that ends it for another's
    death must not come before. On every way out the handlers come back that were there before :meth:`listen`.
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
        """From now on signals are wishes. Collective."""
        # Its own CPU group: asking each step must not wait for the device.
        self._group = new_group(backend="gloo") if world() > 1 else None
        self._before = {number: signal.signal(number, self._handle) for number in ASKING}

    def agreed(self) -> str:
        """Name of the signal that any rank received, the same answer on every rank; empty if none."""
        number = self.received
        if self._group is not None:
            flag = torch.tensor([number])
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
            number = int(flag)
        return signal.Signals(number).name if number else ""

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received and time.monotonic() - self._when > IMPATIENT_SECONDS:
            raise KeyboardInterrupt
        if not self.received:
            self.received, self._when = number, time.monotonic()
