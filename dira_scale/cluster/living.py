"""Which processes on this machine look after runs of a sweep."""

import socket
from contextlib import suppress

import psutil

from dira_scale.cluster.records import Submission, SweepFolder

CLOCK = 5.0  # seconds by which process start times may be off


def living(folder: SweepFolder) -> dict[str, psutil.Process]:
    """The runs that jobs on this machine are carrying out, with the processes that look after them."""
    found: dict[str, psutil.Process] = {}
    for one in folder.submissions:
        if is_here(one):
            with suppress(psutil.Error):
                process = psutil.Process(int(one.job))
                reused = process.create_time() > one.when + CLOCK
                if not reused and is_alive(process):
                    found |= dict.fromkeys(one.runs, process)
    return found


def is_here(submission: Submission) -> bool:
    """Whether its job is a process of this machine."""
    return submission.cluster == "local" and submission.host == socket.gethostname()


def is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
