"""Waiting threads that leave the cores to other programs while those need them.

At the end of a parallel region, OpenMP's threads spin until the last one is done. On an idle machine nothing is faster.
Beside another program they take its core, and each other's: two threads on two cores, one of which is busy, fall to a
third of their speed. OMP_WAIT_POLICY=PASSIVE prevents that, but costs an idle machine up to a fifth of its speed, and
has to be chosen before torch is imported.

GNU's OpenMP, which torch's wheels contain, spins 1,000 times instead of 300,000 while it manages more threads than
there are CPUs (its manual, GOMP_SPINCOUNT). So while other programs compute, a second, sleeping team is kept here.
What the threads compute, and in which parts, stays the same.
"""

import ctypes
import os
import threading
import time
from pathlib import Path

import psutil

INTERVAL = 1.0  # seconds between looks at what other programs use
CROWDED, FREE = 0.3, 0.1  # cores that are missing: from the first on waiting threads yield, below the second they spin


class SleepingTeam:
    """An OpenMP team of one thread more than there are CPUs; it sleeps from :meth:`gather` to :meth:`dismiss`."""

    def __init__(self, library: str) -> None:
        self._parallel = ctypes.CDLL(library).GOMP_parallel
        # Any function that takes a pointer and returns at once.
        self._nothing = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p)
        self._dismissed = threading.Event()
        self._leader: threading.Thread | None = None

    @property
    def gathered(self) -> bool:
        return self._leader is not None

    def gather(self) -> None:
        self._dismissed.clear()
        self._leader = threading.Thread(target=self._lead, name="sleeping team", daemon=True)
        self._leader.start()

    def dismiss(self) -> None:
        """The team ends with the thread that leads it."""
        if self._leader is not None:
            self._dismissed.set()
            self._leader.join()
            self._leader = None

    def _lead(self) -> None:
        self._parallel(self._nothing, None, len(os.sched_getaffinity(0)) + 1, 0)
        self._dismissed.wait()


def is_crowded(others: float, threads: int, cores: int, before: bool) -> bool:
    """Whether this process's ``threads`` and the cores that other programs use exceed this machine's ``cores``."""
    missing = others + threads - cores
    return missing > (FREE if before else CROWDED)


def find_libgomp() -> str | None:
    """The path of torch's OpenMP library if it is GNU's and this is Linux, otherwise None."""
    maps = Path("/proc/self/maps")
    if not maps.exists() or not hasattr(os, "sched_getaffinity"):
        return None
    loaded = {line.split(maxsplit=5)[5] for line in maps.read_text().splitlines() if "libgomp" in line}
    return min(loaded, key=lambda path: "torch" not in path, default=None)  # scikit-learn has one of its own


def spin_less_when_crowded(threads: int) -> None:
    """From now on, look every second whether this process's ``threads`` fit beside what other programs compute."""
    library = find_libgomp()
    if library is None or threads == 1 or "GOMP_SPINCOUNT" in os.environ:
        return
    if max(os.sched_getaffinity(0)) < len(psutil.cpu_times(percpu=True)):  # otherwise CPUs are offline or hidden
        watch = threading.Thread(target=_watch, args=(SleepingTeam(library), threads), name="spinning", daemon=True)
        watch.start()


def _watch(team: SleepingTeam, threads: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    before = _used(cores), time.process_time(), time.monotonic()
    while True:
        time.sleep(INTERVAL)
        now = _used(cores), time.process_time(), time.monotonic()
        everybody, ours, passed = (b - a for a, b in zip(before, now, strict=True))
        before = now
        crowded = is_crowded((everybody - ours) / passed, threads, len(cores), team.gathered)
        if crowded and not team.gathered:
            team.gather()
        elif team.gathered and not crowded:
            team.dismiss()


def _used(cores: list[int]) -> float:
    """Seconds that ``cores`` have computed so far, for whatever program."""
    times = psutil.cpu_times(percpu=True)
    return sum(t.user + t.system + t.irq + t.softirq for t in (times[core] for core in cores))
