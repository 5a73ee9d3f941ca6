"""A sweep on this machine: a loop in the controlling process starts as many runs at once as fit.

The jobs are in sessions of their own. If the controlling process dies, they continue, and the next one finds them by
host, process id and the time when they were started.
"""

import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from dira_scale.machine.hardware import CPUS_PER_TASK, Hardware
from dira_scale.sweep.check import gpus_of
from dira_scale.sweep.config import SweepConfig
from dira_scale.sweep.executors import Sessions
from dira_scale.sweep.job import Job
from dira_scale.sweep.living import is_alive, living
from dira_scale.sweep.records import Run, Submission, SweepFolder

logger = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at the jobs


@dataclass(frozen=True)
class Share:
    """What a run takes of the machine: GPUs by their numbers, cores, GB of memory."""

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
        self.taken: dict[str, Share] = {}

    def take(self, run_id: str, gpus: int, cores: int, memory: float) -> Share | None:
        """A share of these sizes, or None while others have too much. A run that never fits runs alone."""
        used = {gpu for share in self.taken.values() for gpu in share.gpus}
        free = [gpu for gpu in self.gpus if gpu not in used]
        wanted = min(gpus, len(self.gpus))
        share = Share(tuple(free[:wanted]), cores, memory)
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

    def hold(self, run_id: str, gpus: Sequence[str], cores: int, memory: float) -> None:
        """Note what a run has that was started before."""
        self.taken[run_id] = Share(tuple(gpus), cores, memory)


class Local:
    """Starts the runs of a sweep here, and knows which of them are alive.

    Args:
        runs: all that are not done, each after those that it needs.
    """

    def __init__(self, folder: SweepFolder, config: SweepConfig, runs: Sequence[Run], machine: Hardware) -> None:
        self.folder, self.config, self.runs = folder, config, {run.id: run for run in runs}
        self.waiting = dict(self.runs)
        self.room = Room(machine, os.environ.get("CUDA_VISIBLE_DEVICES"), config.cluster.parallel)
        self.living: dict[str, psutil.Process] = {}

    def run(self, done: Callable[[str], bool], report: Callable[[str], None]) -> None:
        """Until no run is alive and none can begin: what still waits needs one that has failed.

        ``report`` is given the id of each that has ended.
        """
        try:
            for run_id in self._adopt():
                logger.info("%s is running already (process %d)", run_id, self.living[run_id].pid)
            self._start(done)
            while self.living:
                time.sleep(LOOK)
                if ended := self.ended():
                    for run_id in ended:
                        report(run_id)
                    self._start(done)
        except KeyboardInterrupt:
            self._adopt()  # one that was being started
            self.interrupt()
            raise

    def _adopt(self) -> list[str]:
        """Look after the runs that were started before, by whatever process; returns those that are new to this one."""
        new = {run_id: process for run_id, process in living(self.folder).items() if run_id in self.runs}
        new = {run_id: process for run_id, process in new.items() if run_id not in self.living}
        for run_id, process in new.items():
            self.living[run_id] = process
            self.waiting.pop(run_id, None)
            held = ""
            with suppress(psutil.Error):  # it has just ended
                held = process.environ().get("CUDA_VISIBLE_DEVICES", "")
            self.room.hold(run_id, held.split(","), *self._wanted(self.runs[run_id])[1:])
        return list(new)

    def ended(self) -> list[str]:
        """The runs whose jobs have ended since the last call; their shares are free."""
        gone = [run_id for run_id, process in self.living.items() if not is_alive(process)]
        for run_id in gone:
            del self.living[run_id], self.room.taken[run_id]
        return gone

    def interrupt(self) -> None:
        """Have every run write its checkpoint and end, and wait for that; it may take minutes."""
        logger.info("interrupted: %d runs write their checkpoints and end", len(self.living))
        for process in self.living.values():
            with suppress(psutil.Error):
                process.terminate()
        while self.living:
            self.ended()
            time.sleep(LOOK / 5)

    def _start(self, done: Callable[[str], bool]) -> None:
        for run in list(self.waiting.values()):
            if self.folder.is_cancelled(run.id):
                del self.waiting[run.id]
            elif all(map(done, run.needs)) and (share := self.room.take(run.id, *self._wanted(run))):
                del self.waiting[run.id]
                self.living[run.id] = psutil.Process(self._submit(run, share))

    def _wanted(self, run: Run) -> tuple[int, int, float]:
        """GPUs, cores, GB of memory."""
        profile = self.config.profile(run.phase)
        return gpus_of(run, profile), profile.cpus_per_task * run.launch.processes, profile.memory or 0.0

    def _submit(self, run: Run, share: Share) -> int:
        """The id of the process that now looks after ``run``."""
        profile = self.config.profile(run.phase)
        threads = str(min(profile.cpus_per_task, self.room.cores))  # otherwise each run would have one for every core
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(share.gpus), CPUS_PER_TASK: threads, "OMP_NUM_THREADS": threads}
        executor = Sessions(self.folder.path / "jobs", environment)
        job = executor.submit(Job(str(self.folder.path), run.id, profile.tries))
        now = time.time()
        self.folder.submitted(Submission("local", job.job_id, [run.id], now, socket.gethostname()))
        return int(job.job_id)
