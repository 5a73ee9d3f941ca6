"""A sweep on this machine: a loop in the controlling process starts as many runs at once as fit.

Each run is looked after by a process in a session of its own (:mod:`dira_scale.sweep.job`), which Ctrl-C in a terminal
does not reach: the loop tells it. If the loop's process is killed, these processes have their runs write a checkpoint
and end.
"""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dira_scale.base.machine.hardware import CPUS_PER_TASK, Hardware
from dira_scale.sweep.check import gpus_of
from dira_scale.sweep.config import SweepConfig
from dira_scale.sweep.job import start
from dira_scale.sweep.records import Run, SweepFolder, is_done

logger = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at the jobs


@dataclass(frozen=True)
class Allocation:
    """The part of the machine that a run has: GPUs by their numbers, cores, GB of memory."""

    gpus: tuple[str, ...]
    cores: int
    memory: float


class Room:
    """The machine's resources, and who has them.

    Args:
        parallel: runs at once; None: as many as cores and memory allow. A GPU is never shared.
    """

    def __init__(self, machine: Hardware, visible: str | None, parallel: int | None) -> None:
        numbers = visible.split(",") if visible is not None else [str(n) for n in range(len(machine.gpus))]
        self.gpus = [number for number in numbers if number][: len(machine.gpus)]
        self.cores, self.memory, self.parallel = machine.cores, machine.memory_gib * 2**30 / 1e9, parallel
        self.taken: dict[str, Allocation] = {}

    def take(self, run_id: str, gpus: int, cores: int, memory: float) -> Allocation | None:
        """A share of these sizes, or None while others have too much. A run that never fits runs alone."""
        used = {gpu for share in self.taken.values() for gpu in share.gpus}
        free = [gpu for gpu in self.gpus if gpu not in used]
        wanted = min(gpus, len(self.gpus))
        share = Allocation(tuple(free[:wanted]), cores, memory)
        if self.parallel is None:
            others = self.taken.values()
            fits = sum(other.cores for other in others) + cores <= self.cores
            fits = fits and sum(other.memory for other in others) + memory <= self.memory
        else:
            fits = len(self.taken) < self.parallel
        if self.taken and (not fits or len(free) < wanted):
            return None
        self.taken[run_id] = share
        return share


class LocalExecutor:
    """Starts the runs of a sweep here, and looks after them.

    Args:
        runs: all that are to be started, each after those that it needs.
    """

    def __init__(self, folder: SweepFolder, config: SweepConfig, runs: Sequence[Run], machine: Hardware) -> None:
        self.folder, self.config, self.waiting = folder, config, list(runs)
        self.room = Room(machine, os.environ.get("CUDA_VISIBLE_DEVICES"), config.cluster.parallel)
        self.jobs: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, ended: Callable[[str], None]) -> None:
        """Start runs until none is at work and none can begin: what still waits needs one that has failed.

        ``ended`` is given the id of each run that has ended.
        """
        try:
            self._start()
            while self.jobs:
                time.sleep(LOOK)
                over = [run_id for run_id, job in self.jobs.items() if job.poll() is not None]
                for run_id in over:
                    del self.jobs[run_id], self.room.taken[run_id]
                    ended(run_id)
                for run_id, job in self.jobs.items():
                    if self.folder.is_cancelled(run_id):
                        job.terminate()
                if over:  # reads the records of every run that waits
                    self._start()
        except KeyboardInterrupt:
            logger.info("interrupted: %d runs write their checkpoints and end", len(self.jobs))
            for job in self.jobs.values():
                job.terminate()
            for job in self.jobs.values():  # it may take minutes
                job.wait()
            raise

    def _start(self) -> None:
        """Start what has room, and nothing to wait for."""
        for run in list(self.waiting):
            profile = self.config.profile(run.phase)
            wanted = gpus_of(run, profile), profile.cpus_per_task * run.launch.processes, profile.memory or 0.0
            if self.folder.is_cancelled(run.id):
                self.waiting.remove(run)
            elif all(is_done(self.folder.tries(need)) for need in run.needs) and (
                share := self.room.take(run.id, *wanted)
            ):
                self.waiting.remove(run)
                threads = str(min(profile.cpus_per_task, self.room.cores))  # else each has one for every core
                chosen = {"CUDA_VISIBLE_DEVICES": ",".join(share.gpus), CPUS_PER_TASK: threads}
                words = [str(self.folder.path), run.id, str(profile.tries)]
                command = [sys.executable, "-m", "dira_scale.sweep.job", *words]
                self.jobs[run.id] = start(command, os.environ | chosen | {"OMP_NUM_THREADS": threads})
