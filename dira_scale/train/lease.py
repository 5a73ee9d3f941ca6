"""One writer per run folder: a lease with a growing number (a fencing token).

``lease.json`` holds the number, who has it and a beat that a thread moves on. Whoever finds a living lease is refused;
whoever lost the lease finds out before the next write and stops (a requeued job's ghost).
"""

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from dira_scale.errors import UserError
from dira_scale.files import write_json

BEAT_SECONDS = 5.0
STILL_SECONDS = 60.0  # a beat that stood still for so long, by one's own clock, is a dead holder's


class LeaseLostError(Exception):
    """Another process took this run over; nothing more may be written."""


class Lease:
    """Holds a run folder from construction to :meth:`release`; ``number`` grows with every holder.

    Raises:
        UserError: a living process holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lease.json"
        held = self._read()
        if held is not None and not held["released"] and not _dead(held):
            self._watch(held)
        self.number = (held["number"] if held else 0) + 1
        process = psutil.Process()
        self._content: dict[str, Any] = {
            "number": self.number,
            "host": socket.gethostname(),
            "pid": process.pid,
            "started": process.create_time(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "beat": 0,
            "released": False,
        }
        write_json(self.path, self._content)
        self._stop = threading.Event()
        self._guard = threading.Lock()  # a beat must not overwrite a release
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Call before every write; raises :class:`LeaseLostError` if another took over."""
        held = self._read()
        if held is None or held["number"] != self.number:
            taken = f"lease {held['number']} on {held['host']}" if held else "its lease file was removed"
            raise LeaseLostError(
                f"{self.path.parent} was taken over ({taken}); this process (lease {self.number}) stops"
            )

    def release(self) -> None:
        """Let the next one in at once."""
        self._stop.set()
        self._thread.join(timeout=BEAT_SECONDS)
        held = self._read()
        if held is not None and held["number"] == self.number:
            with self._guard:
                write_json(self.path, self._content | {"released": True})

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self.check()
            except LeaseLostError:
                return  # the loop finds out at its own next check, where it can stop in order
            with self._guard:
                self._content["beat"] += 1
                write_json(self.path, self._content)

    def _read(self) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return None
        return content

    def _watch(self, held: dict[str, Any]) -> None:
        """Wait until the beat has stood still long enough; refuse as soon as it moves."""
        holder = f"{held['host']} (process {held['pid']})"
        print(f"{self.path.parent} is held by {holder}; waiting {STILL_SECONDS:.0f} s for a sign of life", flush=True)
        deadline = time.monotonic() + STILL_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, STILL_SECONDS))
            now = self._read()
            if now is None or now["released"]:
                return
            if (now["number"], now["beat"]) != (held["number"], held["beat"]):
                raise UserError(
                    f"{self.path.parent}: a running process on {holder} writes to this run; "
                    "stop it, or choose another run=…"
                )


def _dead(held: dict[str, Any]) -> bool:
    """The same SLURM job restarted, or a process of this host that is no more."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None and job == held["slurm_job"]:
        return int(os.environ.get("SLURM_RESTART_COUNT", "0")) > held["slurm_restart"]
    if held["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(held["pid"])
        return process.create_time() != held["started"] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
