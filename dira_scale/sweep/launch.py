"""The child of a job: a run's command, started so that signals and GPUs come out right.

A run of one process is the command itself. Several are started by SLURM (``tasks``: each task is one process, which
finds rank and address in its job step) or by torchrun (one launcher on each node; it starts a lost process again
without a new job).
"""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from submitit import JobEnvironment

from dira_scale.distributed.slurm import PORTS
from dira_scale.runs.exit_codes import TRY
from dira_scale.sweep.records import Run

RESTARTS = 3  # of a launcher, before the job is to decide
SHUTDOWN = 1800  # seconds in which a launcher waits for a checkpoint; SLURM's own patience is shorter
PDEATHSIG = 1  # of prctl(2)


def command(run: Run, job: JobEnvironment) -> list[str]:
    """The command that this task of ``job`` carries out.

    Under torchrun all nodes meet at the first one, at a port computed from job and restart: all know it, jobs that
    share a node get different ones, and so does a job whose first life may still hold its port.
    """
    module = ["-m", f"dira_scale.{run.command}", *run.words]
    launch = run.launch
    if launch.nodes * launch.processes == 1 or (on_slurm(job) and launch.launcher == "tasks"):
        return [sys.executable, *module]
    if on_slurm(job):
        port = PORTS[(int(os.environ["SLURM_JOB_ID"]) + 7919 * restarts()) % len(PORTS)]
        where = [f"--nnodes={launch.nodes}", f"--node_rank={job.node}"]
        where += [f"--master_addr={job.hostnames[0]}", f"--master_port={port}"]
    else:
        where = ["--standalone"]
    limits = [f"--max_restarts={RESTARTS}", f"--shutdown_timeout={SHUTDOWN}"]
    processes = f"--nproc_per_node={launch.processes}"
    return [sys.executable, "-m", "torch.distributed.run", *where, processes, *limits, *module]


def start(words: list[str], log: IO[bytes] | None, name: str) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, its output and errors to ``log`` (None: where ours go).

    SLURM sends SIGUSR1 and SIGUSR2 to every process of a job. torchrun, and a command that does not handle them yet,
    would end at once: the child ignores them until it handles them, and the job passes them on as SIGTERM. If the job
    itself is killed, the child gets SIGTERM, too. ``name``: of the try.
    """
    libc = ctypes.CDLL(None)
    heard = int(signal.SIGTERM)

    def prepare() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        libc.prctl(PDEATHSIG, heard)

    environment = os.environ | {"PYTHONUNBUFFERED": "1", TRY: name}
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT if log else None, env=environment,
        start_new_session=True, preexec_fn=prepare,
    )  # fmt: skip


def on_slurm(job: JobEnvironment) -> bool:
    """Whether ``job`` is SLURM's, not this machine's."""
    return bool(job.cluster == "slurm")


def restarts() -> int:
    """How often SLURM has restarted this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def last_message(log: Path, name: str) -> str:
    """The line that says why the command ``name`` ended: its own last message, else the last line that it printed."""
    lines = [line.strip() for line in end_of(log).splitlines() if line.strip()]
    messages = [line for line in lines if line.startswith(f"{name}: ") and not line.startswith(f"{name}: warning: ")]
    return (messages or lines or [""])[-1]


def end_of(log: Path) -> str:
    """What was printed last; empty if nothing was."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65_536))
        return file.read().decode(errors="replace")
