"""Commands with a time limit, ended with all processes that they started: a leftover process would occupy the GPU."""

import subprocess
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil


def run(command: Sequence[str], seconds: float, **how: Any) -> int | None:
    """Exit code of ``command``, started as ``subprocess.Popen`` does with ``how``; None: killed after ``seconds``."""
    with subprocess.Popen(command, **how) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                end(process.pid)


def end(pid: int) -> None:
    """Kill a process and its descendants, those with a session of their own too: a launcher's, a test's runs."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        first.suspend()  # it starts no more
        for process in [first, *first.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
