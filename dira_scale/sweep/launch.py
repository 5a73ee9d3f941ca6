"""The child of a job: a run's command, started so that signals and GPUs come out right.

A run of one process is the command itself. Of several, SLURM starts each as a task, which finds rank and address in its
job step; on this machine torchrun starts them.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from submitit import JobEnvironment

from dira_scale.runs.exit_codes import TRY
from dira_scale.sweep.records import Run

RESTARTS = 3  # of a launcher, before the job is to decide
SHUTDOWN = 1800  # seconds in which a launcher waits for a checkpoint; SLURM's own patience is shorter
PDEATHSIG = 1  # of prctl(2)


def command(run: Run, job: JobEnvironment) -> list[str]:
    """The command that this task of ``job`` carries out."""
    module = ["-m", f"dira_scale.{run.command}", *run.words]
    if run.launch.processes == 1 or job.cluster == "slurm":
        return [sys.executable, *module]
    limits = [f"--max_restarts={RESTARTS}", f"--shutdown_timeout={SHUTDOWN}"]
    processes = f"--nproc_per_node={run.launch.processes}"
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", processes, *limits, *module]


def carry_out(words: list[str], log: Path | None, received: list[int], name: str) -> int:
    """The exit code of ``words`` as a child, to which the first signal received is passed on as SIGTERM.

    Args:
        log: for what it prints; None: where ours goes.
        name: of the try.
    """
    with Path(log or os.devnull).open("ab") as output:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", TRY: name}
        child = start(words, environment, output if log else None)
        passed_on = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(0.2)
                break
            if received and not passed_on:
                child.terminate()
                passed_on = True
    with suppress(ProcessLookupError):  # what it has left behind
        os.killpg(child.pid, signal.SIGKILL)
    return child.returncode


def start(words: list[str], environment: Mapping[str, str], log: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, which gets SIGTERM when this process ends, however that is.

    SLURM sends SIGUSR1 and SIGUSR2 to every process of a job. torchrun, and a command that does not handle them yet,
    would end at once: the child ignores them until it handles them, and the job passes them on as SIGTERM.
    """
    libc = ctypes.CDLL(None)
    by = int(signal.SIGTERM)

    def prepare() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        libc.prctl(PDEATHSIG, by)

    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT if log else None, env=environment,
        start_new_session=True, preexec_fn=prepare,
    )  # fmt: skip
