"""Which processes look after a sweep: the one that carries it out, and those of its runs on this machine."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import psutil

from dira_scale.errors import UserError
from dira_scale.sweep.records import Submission, SweepFolder

LOCK_WAIT = 1.0  # seconds for which a status may hold the lock, to see whether another does
CLOCK = 5.0  # seconds by which process start times may be off


@contextmanager
def in_control(folder: SweepFolder) -> Iterator[None]:
    """No other process starts runs of this sweep meanwhile. Raises UserError if one does already."""
    folder.path.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + LOCK_WAIT
    with (folder.path / "lock").open("a+") as file:
        while not _taken(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                file.seek(0)
                raise UserError(f"folder={folder.path}: process {file.read().strip()} is already running this sweep")
            time.sleep(LOCK_WAIT / 20)
        file.truncate(0)
        file.write(f"{os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def is_controlled(folder: SweepFolder) -> bool:
    """Whether a process carries the sweep out."""
    path = folder.path / "lock"
    if not path.exists():
        return False
    with path.open() as file:
        return not _taken(file, fcntl.LOCK_SH)


def _taken(file: IO[str], how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def living(folder: SweepFolder) -> dict[str, psutil.Process]:
    """The runs that jobs on this machine are carrying out, with the processes that look after them."""
    runs: dict[str, psutil.Process] = {}
    for submission in folder.submissions:
        if is_here(submission):
            with suppress(psutil.Error):
                process = psutil.Process(int(submission.job))
                reused = process.create_time() > submission.when + CLOCK
                if not reused and is_alive(process):
                    runs |= dict.fromkeys(submission.runs, process)
    return runs


def is_here(submission: Submission) -> bool:
    """Whether its job is a process of this machine."""
    return submission.cluster == "local" and submission.host == socket.gethostname()


def is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
