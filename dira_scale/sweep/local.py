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
from collections.abc import Sequence

from dira_scale.base.machine.hardware import CPUS_PER_TASK, Hardware
from dira_scale.sweep.check import gpus_of
from dira_scale.sweep.config import SweepConfig
from dira_scale.sweep.job import start
from dira_scale.sweep.records import Run, SweepFolder, is_done

logger = logging.getLogger(__name__)

LOOK = 0.5  # seconds between two looks at the jobs


class Room:
    """The machine's resources, and who has them.

    Args:
        parallel: runs at once; None: as many as cores and memory allow. A GPU is never shared.
    """

    def __init__(self, machine: Hardware, visible: str | None, parallel: int | None) -> None:
        numbers = visible.split(",") if visible is not None else [str(n) for n in range(len(machine.gpus))]
        self.gpus = [number for number in numbers if number][: len(machine.gpus)]
        self.cores, self.memory, self.parallel = machine.cores, machine.memory_gib * 2**30 / 1e9, parallel
        self.taken: dict[str, tuple[list[str], int, float]] = {}  # by run: GPUs, cores, GB

    def take(self, run_id: str, gpus: int, cores: int, memory: float) -> list[str] | None:
        """The numbers of a run's GPUs, or None while others have too much. A run that never fits runs alone.

        ``memory``: in GB.
        """
        taken = self.taken.values()
        wanted = min(gpus, len(self.gpus))
        free = [gpu for gpu in self.gpus if not any(gpu in used for used, _, _ in taken)]
        if self.parallel is None:
            fits = sum(used for _, used, _ in taken) + cores <= self.cores
            fits = fits and sum(used for _, _, used in taken) + memory <= self.memory
        else:
            fits = len(taken) < self.parallel
        if taken and (not fits or len(free) < wanted):
            return None
        self.taken[run_id] = free[:wanted], cores, memory
        return free[:wanted]


def run_here(folder: SweepFolder, config: SweepConfig, runs: Sequence[Run], machine: Hardware) -> None:
    """Start ``runs``, needed ones first, until none is at work and none can begin: the rest needs one that has failed.
    How each has ended is logged."""
    waiting, jobs = list(runs), dict[str, subprocess.Popen[bytes]]()
    room = Room(machine, os.environ.get("CUDA_VISIBLE_DEVICES"), config.cluster.parallel)

    def start_what_fits() -> None:
        for run in list(waiting):
            profile = config.profile(run.phase)
            if folder.is_cancelled(run.id):
                waiting.remove(run)
            elif all(is_done(folder.tries(need)) for need in run.needs):
                cores, memory = profile.cpus_per_task * run.launch.processes, profile.memory or 0.0
                if (gpus := room.take(run.id, gpus_of(run, profile), cores, memory)) is not None:
                    waiting.remove(run)
                    threads = str(min(profile.cpus_per_task, room.cores))  # else each has one for every core
                    chosen = {"CUDA_VISIBLE_DEVICES": ",".join(gpus), CPUS_PER_TASK: threads}
                    words = [str(folder.path), run.id, str(profile.tries)]
                    command = [sys.executable, "-m", "dira_scale.sweep.job", *words]
                    jobs[run.id] = start(command, os.environ | chosen | {"OMP_NUM_THREADS": threads})

    try:
        start_what_fits()
        while jobs:
            time.sleep(LOOK)
            over = [run_id for run_id, job in jobs.items() if job.poll() is not None]
            for run_id in over:
                del jobs[run_id], room.taken[run_id]
                how, tries = "ended before it began", folder.tries(run_id)
                if tries:
                    how = f"{tries[-1].reason or 'ended'} (log: {folder.log(run_id, tries[-1].number)})"
                logger.info("%s: %s", run_id, "done" if is_done(tries) else how)
            for run_id, job in jobs.items():
                if folder.is_cancelled(run_id):
                    job.terminate()
            if over:  # reads the records of every run that waits
                start_what_fits()
    except KeyboardInterrupt:
        logger.info("interrupted: %d runs write their checkpoints and end", len(jobs))
        for job in jobs.values():
            job.terminate()
        for job in jobs.values():  # it may take minutes
            job.wait()
        raise
