"""The one fault injector: whatever goes wrong with a run in a test goes wrong through this file.

From outside: :class:`Job` starts a command and signals, stops or kills its processes; :class:`Disk` is full or has
room; :func:`cut` and :func:`flip` damage files. From inside: :func:`killed_at` has a process strike itself at named
moments, such as between a checkpoint's index and the renaming (moments.py).
"""

import errno
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from forked import Forked
from harness import job
from system.moments import MOMENTS

SECONDS = 600  # bound on every wait, for a loaded machine with slow cores


class Job:
    """A command and all processes that it starts; none outlives the ``with`` block. ``run`` is the run's folder.

    ``fresh`` and ``before``: see ``harness.job``.
    """

    def __init__(
        self, command: list[str], run: Path, fresh: bool = False, before: str = "", **environment: str
    ) -> None:
        self.command, self.run = command, run
        self._started = job(command, fresh, before, **environment)

    def __enter__(self) -> "Job":
        self.process = self._started.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.kill()
            self._last = self.printed
        finally:
            self._started.__exit__(None, None, None)

    @property
    def printed(self) -> str:
        """What all processes have printed so far."""
        return self._last if hasattr(self, "_last") else self.process.printed()

    def wait_until(self, happened: Callable[[], object]) -> None:
        """Bounded; fails where the job ends before."""
        deadline = time.monotonic() + SECONDS
        while not happened():
            assert time.monotonic() < deadline, f"waited {SECONDS} s\n{self.printed}"
            assert self.process.poll() is None, f"ended with {self.process.poll()}\n{self.printed}"
            time.sleep(0.01)

    def rows(self, count: int) -> None:
        """Wait until ``count`` rows are logged."""
        path = self.run / "metrics.jsonl"
        self.wait_until(lambda: path.exists() and path.read_text().count('"split": "train"') >= count)

    def end(self) -> int:
        """Wait for the end; the exit code of the command."""
        return self.process.wait(SECONDS)

    def ends_within(self, seconds: float) -> bool:
        """Whether the command has ended by then."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def processes(self) -> list[psutil.Process]:
        """Everything that trains in this run's folder, launchers included; these may start sessions of their own."""
        processes = []
        for pid in self.process.alive():
            with suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(pid))
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                known = process in processes or process.status() == psutil.STATUS_ZOMBIE
                if not known and f"run={self.run}" in process.cmdline():
                    processes.append(process)
        return processes

    def rank(self, number: int) -> psutil.Process:
        """The process of one rank."""
        if isinstance(self.process, Forked):
            return psutil.Process(self.process.pids[number])
        for process in self.processes():
            with suppress(psutil.Error):
                if process.environ().get("RANK") == str(number):
                    return process
        raise AssertionError(f"no process of rank {number}\n{self.printed}")

    def kill(self) -> None:
        """SIGKILL to all of it, at once."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)


def killed_at(
    command: list[str], *moments: str, by: signal.Signals = signal.SIGKILL
) -> tuple[list[str], dict[str, str]]:
    """``command`` and an environment under which a process signals itself at each moment ``EVENT:END OF A PATH:COUNT``.

    ``EVENT`` is one of Python's audit events, of which each operation on files raises one before it is carried out. A
    checkpoint's files have step, lease and rank in their names, so that a moment is one process's in one of its lives.
    """
    where = len(command) - 1 - command[::-1].index("-m")  # behind a launcher's own
    inside = [*command[:where], str(Path(__file__).with_name("moments.py")), *command[where + 1 :]]
    return inside, {MOMENTS: " ".join([str(int(by)), *moments])}


def cut(path: Path, size: int = 100) -> None:
    """The file's last bytes are gone."""
    os.truncate(path, path.stat().st_size - size)


def flip(path: Path, byte: int) -> None:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


class Disk:
    """A small disk at ``folder`` that a test fills and frees while a job writes to it.

    A tmpfs where one may be mounted; else the job's processes are forbidden to write files at all, by their limits.
    """

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder, self.mounted = folder, mounted

    def fill(self, job: Job) -> None:
        """Not a byte is left."""
        self._limit(job, 0)
        with suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as file:
            while self.mounted:
                file.write(bytes(1 << 16)) or _full()

    def free(self, job: Job) -> None:
        """There is room again."""
        self._limit(job, resource.RLIM_INFINITY)
        (self.folder / "ballast").unlink(missing_ok=True)

    def _limit(self, job: Job, size: int) -> None:
        if not self.mounted:
            for process in job.processes():
                _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, most))


@contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[Disk]:
    """A :class:`Disk` of ``mib`` MiB at ``folder``, which is made."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "none", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, timeout=60, check=False).returncode == 0
    try:
        yield Disk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], timeout=60, check=True)


def _full() -> None:
    raise OSError(errno.ENOSPC, "full")
