"""The tries of one run, inside a job.

A :class:`Job` starts the command as a child, passes signals on to it, records how it ended, and decides what follows
(:mod:`dira_scale.sweep.ending`). The exact step comes from the run folder's checkpoint, and a first life that still
runs on a node thought dead loses the run's lease to the second one (:mod:`dira_scale.train.runs.lease`).

``python -m dira_scale.sweep.job FOLDER RUN LIMIT`` is a job on this machine.
"""

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from submitit import JobEnvironment
from submitit.helpers import Checkpointable

from dira_scale.base.config.trust import allow
from dira_scale.base.errors import UserError
from dira_scale.commands import COMMANDS
from dira_scale.sweep import ending, queue
from dira_scale.sweep.records import Run, SweepFolder, Try, is_done
from dira_scale.train.runs.complete import newest_step
from dira_scale.train.runs.exit_codes import DONE, INTERRUPTED, TRY

logger = logging.getLogger(__name__)

RESTARTS = 3  # of a launcher, before the job is to decide
SHUTDOWN = 1800  # seconds in which a launcher waits for a checkpoint; SLURM's own patience is shorter
PDEATHSIG = 1  # of prctl(2)
REQUEUEING = (signal.SIGUSR1, signal.SIGUSR2)
SIGNALS = (*REQUEUEING, signal.SIGTERM, signal.SIGINT)
RECORDED = 60  # seconds in which the record of a job that SLURM has taken must appear


def command(run: Run, job: JobEnvironment) -> list[str]:
    """The command that this task of ``job`` carries out."""
    module = ["-m", *f"dira_scale.{run.command}".split(), *run.words]
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

    def prepare() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        libc.prctl(PDEATHSIG, int(signal.SIGTERM))

    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT if log else None, env=environment,
        start_new_session=True, preexec_fn=prepare,
    )  # fmt: skip


class Local(JobEnvironment):
    """A job that is one process of this machine. The class's name is ``cluster`` in the records of tries."""

    job_id = str(os.getpid())
    node = global_rank = 0


@dataclass
class Job(Checkpointable):
    """A task of a job: carries out ``run`` of the sweep in ``folder``; submitit calls it.

    In a job of several tasks, the first one records and decides; the others only look after their own child.
    """

    folder: str
    run: str
    limit: int = 3  # failures in a row without a new step after which the run has failed

    def __call__(self) -> None:
        """Call :meth:`carry_out` in a job of SLURM's."""
        self.carry_out(JobEnvironment())

    def carry_out(self, job: JobEnvironment) -> None:
        """Ends with the child's exit code, 128 + N after signal N; returns if there is nothing to do."""
        received: list[int] = []
        for number in SIGNALS:  # submitit's own handlers would end the job before its child
            signal.signal(number, lambda number, _frame: received.append(number))
        sweep = SweepFolder(Path(self.folder))
        run = sweep.run(self.run)
        while True:
            if _refused(sweep, run, job):
                return
            ended, following = self._try(sweep, run, job, received)
            if following != "retry" or job.cluster == "slurm":
                break
        if following in ("requeue", "retry") and job.cluster == "slurm":
            if silent := ending.silent_nodes(sweep, run, job, sweep.log(run.id, ended.number)):
                ended.reason = f"{ended.reason}; not on {', '.join(silent)} again"
                sweep.write(run.id, ended)
            try:
                queue.requeue(job, silent)
            except UserError as error:
                ended.reason = f"{ended.reason}; not requeued: {error}".removeprefix("; ")
                sweep.write(run.id, ended)
        if code := ended.exit_code:
            sys.exit(code if code > 0 else 128 - code)  # as a shell tells a signal

    def _try(self, sweep: SweepFolder, run: Run, job: JobEnvironment, received: list[int]) -> tuple[Try, str]:
        """One try, and what follows."""
        words, attempt = command(run, job), _begun(job, _resumed_step(sweep, run))
        if job.global_rank:
            attempt.exit_code = carry_out(words, None, received, run.id)
            ending.record_task(sweep, run, job, attempt.exit_code)
            return attempt, "leave"
        sweep.begin(run.id, attempt)
        log, name = sweep.log(run.id, attempt.number), f"{run.id}/{attempt.number:03d}"
        code = carry_out(words, log, received, name)
        now = sweep.status(run)
        own = now if now.get("try") == name else {}  # written by this try, not by an earlier one or another job's
        if own.get("exit_code") is not None:
            code = own["exit_code"]  # torchrun has its own
        if received and code == -signal.SIGTERM:  # a command that does not handle what we passed on
            code = INTERRUPTED
        attempt.ended, attempt.exit_code, attempt.step = time.time(), code, own.get("step", attempt.step_before)
        if code != DONE:
            attempt.reason = ending.first_task(sweep, run, job) or ending.reason(code, own, log, run.command)
        tries = [other for other in sweep.tries(run.id) if other.job == attempt.job]
        tries = [attempt if other.number == attempt.number else other for other in tries]
        stopped = _stopped(job, received, resumes=COMMANDS[run.command].parts)
        following = ending.after(tries, stopped, sweep.is_cancelled(run.id), self.limit)
        if following == "failed" and stopped == "limit":
            attempt.reason = f"the time limit came {self.limit} times without a new step: raise cluster.hours"
        sweep.write(run.id, attempt)
        return attempt, following if tries[-1] is attempt else "leave"  # this job's next life has begun: it decides


def _refused(sweep: SweepFolder, run: Run, job: JobEnvironment) -> bool:
    """Return whether not to start this run: it is cancelled, done already, of a job that is not recorded, or lacks a
    run that it needs."""
    if sweep.is_cancelled(run.id) or is_done(sweep.tries(run.id)):
        logger.info("%s is cancelled or done", run.id)
        return True
    deadline = time.monotonic() + RECORDED
    while job.cluster == "slurm" and job.job_id not in sweep.jobs.get(run.id, []):
        if time.monotonic() > deadline:
            logger.info("job %s is not recorded, as sbatch's answer was lost: its runs are submitted again", job.job_id)
            return True
        time.sleep(1)
    lacking = [needed for needed in run.needs if not is_done(sweep.tries(needed))]
    if lacking and job.global_rank == 0:
        attempt = sweep.begin(run.id, _begun(job, None))
        attempt.ended, attempt.reason = time.time(), f"blocked: {', '.join(lacking)} not done"
        sweep.write(run.id, attempt)
    return bool(lacking)


def _begun(job: JobEnvironment, step: int | None) -> Try:
    return Try(
        number=0, cluster=job.cluster, job=job.job_id, restart=queue.restarts(), nodes=list(job.hostnames),
        began=time.time(), step_before=step,
    )  # fmt: skip


def _resumed_step(sweep: SweepFolder, run: Run) -> int | None:
    """The step that a try resumes from; None for commands without steps."""
    status = sweep.status(run)
    if "step" not in status:
        return None
    try:
        allow(word.partition("=")[2] for word in run.words)
        return newest_step(sweep.output(run))
    except (OSError, UserError):  # the store does not answer: the command will say so
        return int(status["step"])


def _stopped(job: JobEnvironment, received: list[int], resumes: bool) -> str:
    """Return why the signals came, as :func:`dira_scale.sweep.ending.after` takes it.

    ``resumes``: the command makes headway that no step shows.
    """
    if not received:
        return ""
    if received[0] in REQUEUEING:
        return "preempted" if resumes else "limit"
    return "preempted" if job.cluster == "slurm" and queue.is_preempted(job) else "ended"


if __name__ == "__main__":
    Job(sys.argv[1], sys.argv[2], int(sys.argv[3])).carry_out(Local())
