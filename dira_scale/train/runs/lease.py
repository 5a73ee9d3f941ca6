"""One writer per run folder: leases with increasing numbers (fencing tokens), one file each.

``leases/000003.json`` names the holder of number 3 and has a beat, which a thread of the holder increments. The highest
number holds the folder. A number is taken by creating its file, which only one process can. A holder writes only to its
own file, so a late write of a former holder (such as the first life of a requeued job) changes nothing: it notices
before its next write to the run, and stops.
"""

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import process_namespace, write_json
from dira_scale.train.distributed.control import PrecedingError
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.runs.heartbeat import has_stopped, newest, numbers, seconds_without_beat

logger = logging.getLogger(__name__)

CLOCK_SECONDS = 5.0  # process start times may differ by so much after a clock adjustment


class LeaseLostError(PrecedingError):
    """Another process has taken over this run; nothing more may be written."""


class Lease:
    """Holds a run folder from construction to :meth:`release`; ``number`` grows with every holder.

    Raises UserError if a living process holds the folder, or took it at the same moment.
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
            "numbering": process_namespace(),
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
        """Call before every write. Raises :class:`LeaseLostError` if another process has taken over."""
        check(self.folder.parent, self.number)

    def release(self) -> None:
        """Let the next process take the run at once."""
        self._stop.set()
        self._thread.join(timeout=TIMINGS.beat)
        with suppress(OSError):  # on a full disk the next process finds a dead holder, or a beat that has stopped
            write_json(self.path, self._content | {"released": True})

    def _take(self) -> None:
        """Create this number's file, which only one process can."""
        try:
            write_json(self.path, self._content, new=True)
        except FileExistsError as error:
            raise UserError(f"{self.folder.parent}: another process has just started on this run") from error

    def _keep(self) -> None:
        while not self._stop.wait(TIMINGS.beat):
            self._content["beat"] += 1
            try:
                write_json(self.path, self._content)
            except OSError:
                continue  # on a full disk the beat resumes once there is space; the run's own writes report it

    def _watch(self, held: dict[str, Any]) -> None:
        """Wait until the beat has stopped for long enough; raise ``UserError`` as soon as it moves."""
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
    """Check that ``number`` is still the newest lease of the run in ``folder``; every process calls it before a write.

    Raises LeaseLostError if another process has taken over the run.
    """
    held = max(numbers(folder), default=0)
    if held != number:
        raise LeaseLostError(
            f"{folder} was taken over by another process (lease {held}); this one (lease {number}) stops"
        )


def living(folder: Path) -> str:
    """Name the process that holds the run in ``folder``, by its last beat; empty if there is none."""
    held, silent = newest(folder), seconds_without_beat(folder)
    if held is None or silent is None or held["released"] or has_stopped(silent) or _dead(held):
        return ""
    return f"a running process on {held['host']} (process {held['pid']})"


def _dead(held: dict[str, Any]) -> bool:
    """Return whether the holder is gone: SLURM restarted its job, or its process would be visible here but is not."""
    job = os.environ.get("SLURM_JOB_ID")
    restarts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    if job is not None and job == held["slurm_job"] and restarts > held["slurm_restart"]:
        return True
    if (held["host"], held["numbering"]) != (socket.gethostname(), process_namespace()):
        return False
    try:
        process = psutil.Process(held["pid"])
        reused = abs(process.create_time() - held["started"]) > CLOCK_SECONDS
        return reused or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
