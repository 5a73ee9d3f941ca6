"""Detects training that hangs, such as in a collective that one process never enters.

In every process a thread counts the seconds without a sign of life. After ``watchdog`` of them it writes all stacks and
the last collectives to ``stacks/rank-N.txt`` in the run folder and ends the process. This precedes the process group's
own timeout, which would leave no stacks. It waits less once another process is lost: the training thread may be in a
collective on a GPU, or waiting for the GPU to take more work behind one, and so never hear of it.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dira_scale.base.config import logs
from dira_scale.train.distributed import flight_recorder
from dira_scale.train.distributed.collectives import rank, world
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.runs import lease
from dira_scale.train.runs.exit_codes import FAILED

_signs = 0  # of life


def alive() -> None:
    """A sign of life of training or validation: called for every micro-batch."""
    global _signs
    _signs += 1


class Watchdog:
    """Ends this process if :func:`alive` is not called for ``seconds``; use as a context manager.

    Time in which the process was suspended does not count.

    Args:
        folder: the run's.
        number: of its lease, the same on all processes.
        lost: whether another process is known to be gone.
        rescue: writes what training had begun to write, in bounded time.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        seconds: float,
        lost: Callable[[], bool] = lambda: False,
        rescue: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.number, self.seconds, self.lost, self.rescue = folder, number, seconds, lost, rescue
        self._stacks = folder / "stacks" / f"rank-{rank()}.txt"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        found = [self._stacks.with_name(flight_recorder.FOUND)] * (rank() == 0)
        for path in (self._stacks, self._stacks.with_suffix(".json"), *found):  # of an earlier hang
            path.unlink(missing_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _watch(self) -> None:
        every = min(1.0, self.seconds / 4)
        before, still = _signs, 0.0
        while not self._stop.wait(every):
            before, still = _signs, still + every if before == _signs else 0.0
            if still >= self.seconds:
                self._end_process(f"no step for {self.seconds:g} s (watchdog={self.seconds:g})")
            if still >= TIMINGS.after_loss and self.lost():
                self._end_process(f"no step for {TIMINGS.after_loss:g} s, and another process is gone")

    def _end_process(self, reason: str) -> None:
        # The file system itself may hang: then the stacks go to the screen, and the process still ends.
        faulthandler.dump_traceback_later(TIMINGS.exit_report, exit=True)
        try:
            lease.check(self.folder, self.number)
            self._stacks.parent.mkdir(exist_ok=True)
            with self._stacks.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            self.rescue()
            time.sleep(TIMINGS.linger)
            written = {path.name for path in self._stacks.parent.glob("rank-*.txt")}
            silent = [str(r) for r in range(world()) if f"rank-{r}.txt" not in written]
            lacking = f"; nothing yet from rank {', '.join(silent)}: stopped, gone, or slower" if silent else ""
            where = f"Where every process stood: {self._stacks.parent}{lacking}"
            self._report(f"{reason}. {where}. The same command resumes from the newest checkpoint", "hung")
            if parted := flight_recorder.exchange(self._stacks, TIMINGS.linger, partly=True):  # last: CUDA may block it
                self._report(parted, "parted")
        except OSError as error:
            print(f"{logs.command() or logs.PACKAGE}: {reason}; {error}; this process stood:", file=sys.stderr)
            faulthandler.dump_traceback(all_threads=True)
        finally:
            os._exit(FAILED)  # the training thread never returns

    def _report(self, text: str, once: str) -> None:
        """Print ``text`` and append it to ``log.txt``, in the first process that gets here with ``once``."""
        line = f"{logs.command() or logs.PACKAGE}: {text}"
        with suppress(FileExistsError):
            (self.folder / "leases" / f"{self.number:06d}.{once}").open("x").close()
            print(line, file=sys.stderr, flush=True)
            with (self.folder / "log.txt").open("a") as log:
                log.write(line + "\n")
