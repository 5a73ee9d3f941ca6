"""One writer per run folder: leases with growing numbers (fencing tokens), a file each.

``leases/000003.json`` says who took number 3 and carries a beat that a thread of the holder moves on. Whoever has the
highest number holds the folder; a number is taken by creating its file, which only one process can. A holder writes to
its own file alone, so a late write of a former holder changes nothing: it notices before its next write to the run,
and stops (a requeued job's ghost).
"""

import json
import logging
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from dira_scale.distributed.control import PrecedingError
from dira_scale.distributed.timings import TIMINGS
from dira_scale.errors import UserError
from dira_scale.places.atomic import write_json

logger = logging.getLogger(__name__)

# What is known of a holder that has created its file and not yet written to it.
JUST_TAKEN: dict[str, Any] = {"host": "unknown host", "pid": 0, "beat": -1, "released": False, "slurm_job": None}
CLOCK_SECONDS = 5.0  # process start times may differ by so much when the clock was set


class LeaseLostError(PrecedingError):
    """Another process took this run over; nothing more may be written."""


class Lease:
    """Holds a run folder from construction to :meth:`release`; ``number`` grows with every holder.

    Raises:
        UserError: a living process holds the folder, or took it at the same moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "leases"
        self.folder.mkdir(parents=True, exist_ok=True)
        held = newest(folder)
        if held is not None and not held["released"] and not _dead(held):
            self._watch(held)
        self.number = held["number"] + 1 if held else 1
        self.path = self.folder / f"{self.number:06d}.json"
        process = psutil.Process()
        self._content: dict[str, Any] = {
            "number": self.number,
            "host": socket.gethostname(),
            "numbering": _numbering(),
            "pid": process.pid,
            "started": process.create_time(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "beat": 0,
            "released": False,
        }
        self._take()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Call before every write; raises :class:`LeaseLostError` if another took over."""
        check(self.folder.parent, self.number)

    def release(self) -> None:
        """Let the next process take the run at once."""
        self._stop.set()
        self._thread.join(timeout=TIMINGS.beat)
        with suppress(OSError):  # a full disk: the next process finds a dead one, or a beat that stands still
            write_json(self.path, self._content | {"released": True})

    def _take(self) -> None:
        """Create this number's file, which only one process can, then fill it."""
        try:
            self.path.touch(exist_ok=False)
        except FileExistsError as error:
            raise UserError(f"{self.folder.parent}: another process has just started on this run") from error
        write_json(self.path, self._content)

    def _keep(self) -> None:
        while not self._stop.wait(TIMINGS.beat):
            self._content["beat"] += 1
            try:
                write_json(self.path, self._content)
            except OSError:
                continue  # a full disk: the beat goes on when there is room, and the run's own writes report it

    def _watch(self, held: dict[str, Any]) -> None:
        """Wait until the beat has stood still long enough; ``UserError`` as soon as it moves."""
        run, holder = self.folder.parent, f"{held['host']} (process {held['pid']})"
        logger.info("%s is held by %s; waiting %.0f s for a sign of life", run, holder, TIMINGS.dead_after)
        deadline = time.monotonic() + TIMINGS.dead_after
        while time.monotonic() < deadline:
            time.sleep(min(1.0, TIMINGS.dead_after / 4))
            now = newest(run)
            assert now is not None
            if now["released"]:
                return
            if (now["number"], now["beat"]) != (held["number"], held["beat"]):
                raise UserError(
                    f"{run}: a running process on {holder} writes to this run; stop it, or choose another run=…"
                )


def check(folder: Path, number: int) -> None:
    """What every process of the holder of lease ``number`` calls before it writes to the run in ``folder``.

    Raises:
        LeaseLostError: another has taken the run over.
    """
    held = max(_numbers(folder / "leases"), default=0)
    if held != number:
        raise LeaseLostError(
            f"{folder} was taken over by another process (lease {held}); this one (lease {number}) stops"
        )


def newest(folder: Path) -> dict[str, Any] | None:
    """The run's lease with the highest number, or None."""
    numbers = _numbers(folder / "leases")
    if not numbers:
        return None
    text = (folder / "leases" / f"{max(numbers):06d}.json").read_text()
    content: dict[str, Any] = json.loads(text) if text else JUST_TAKEN | {"number": max(numbers)}
    return content


def seconds_without_beat(folder: Path) -> float | None:
    """For how long the run's newest lease has not been written, by the file system's clock; None where there is none.

    Enough to tell of a run; who may take it over is judged more carefully.
    """
    numbers = _numbers(folder / "leases")
    if not numbers:
        return None
    return time.time() - (folder / "leases" / f"{max(numbers):06d}.json").stat().st_mtime


def _numbers(leases: Path) -> list[int]:
    return [int(path.stem) for path in leases.glob("[0-9]*.json")]


def _numbering() -> str | None:
    """The process namespace: machines, and containers of one machine, may share a host name.

    None where there is no /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None


def _dead(held: dict[str, Any]) -> bool:
    """Whether the holder is gone: its SLURM job was restarted, or its process would be visible here and is not."""
    job = os.environ.get("SLURM_JOB_ID")
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if job is not None and job == held["slurm_job"] and restarts > held["slurm_restart"]:
        return True
    if (held["host"], held.get("numbering")) != (socket.gethostname(), _numbering()):
        return False
    try:
        process = psutil.Process(held["pid"])
        reused = abs(process.create_time() - held["started"]) > CLOCK_SECONDS
        return reused or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
