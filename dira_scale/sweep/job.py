"""What runs inside a job: one try of one run, and what follows it.

A :class:`Job` starts the command as a child, passes signals on to it, and records how it ended. Then it decides:

    ends with                            then
    0                                    the run is done
    any code after SIGUSR1 or SIGUSR2    requeued: the time limit is near; not after the Nth time without a new step
    any code after SIGTERM               nothing: `scancel` sends it, and `scontrol requeue`, which requeues by itself;
                                         in a preemption's grace time requeued, as SLURM does only what it has to kill
    2 before any step                    the run has failed: bad input does not improve
    anything else                        requeued, unless it is the Nth failure in a row without a new step

A cancel wins over all. The exact step comes from the run folder's checkpoint, and a first life that still runs on a
node thought dead loses the run's lease to the second one (:mod:`dira_scale.runs.lease`).
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from submitit import JobEnvironment
from submitit.helpers import Checkpointable

from dira_scale.commands import COMMANDS
from dira_scale.config.reach import allow
from dira_scale.errors import UserError
from dira_scale.runs.complete import newest_step
from dira_scale.runs.exit_codes import BAD_INPUT, DONE, INTERRUPTED
from dira_scale.sweep import death, launch
from dira_scale.sweep.records import Run, SweepFolder, Try, is_done
from dira_scale.sweep.requeue import in_grace_time, requeue

logger = logging.getLogger(__name__)

REQUEUEING = (signal.SIGUSR1, signal.SIGUSR2)
FOLLOWS = re.compile(r"; (try \d+ of \d+|another try) follows$")
SIGNALS = (*REQUEUEING, signal.SIGTERM, signal.SIGINT)


def after(tries: Sequence[Try], stopped: str, cancelled: bool, limit: int) -> str:
    """What follows a try that has ended: ``done``, ``requeue``, ``retry``, ``failed``, or ``leave``: nothing.

    Args:
        tries: of this run in this job, the ended one last.
        stopped: ``preempted`` by SLURM, at the time ``limit``, ``ended`` by somebody, or empty.
        cancelled: whether the user has cancelled the run.
        limit: failures in a row without a new step after which the run has failed.
    """
    last = tries[-1]
    if last.exit_code == DONE:
        return "done"
    if cancelled:
        return "leave"
    if last.exit_code == BAD_INPUT and not any(attempt.step or attempt.step_before for attempt in tries):
        return "failed"
    if stopped == "limit":
        return "requeue" if without_step(tries) < limit else "failed"
    if stopped:
        return "requeue" if stopped == "preempted" else "leave"
    if last.exit_code == INTERRUPTED:  # somebody signalled the command itself
        return "leave"
    return "retry" if futile(tries) < limit else "failed"


def futile(tries: Sequence[Try]) -> int:
    """How many of the last tries have failed in a row without a new step; interruptions do not count."""
    best, count = 0, 0
    for attempt in tries:
        if (attempt.step_before or 0) > best:  # what a try without an end has reached, only the next one knows
            best, count = attempt.step_before or 0, 0
        if (attempt.step or 0) > best:
            best, count = attempt.step or 0, 0
        elif attempt.exit_code == BAD_INPUT or failed(attempt, last=attempt is tries[-1]):
            count += 1
    return count


def failed(attempt: Try, last: bool) -> bool:
    """Whether a try came to nothing by no fault of its input: it failed, or something followed that it did not end.

    ``last``: no try has followed it, so without an end it may still be running.
    """
    if attempt.exit_code is None:
        return attempt.ended is None and not last
    return attempt.exit_code not in (DONE, BAD_INPUT, INTERRUPTED)


def without_step(tries: Sequence[Try]) -> int:
    """How many of the last tries have made no new step, however they ended."""
    made = [(attempt.step or 0) > (attempt.step_before or 0) for attempt in tries]
    return len(made) - max((n for n, new in enumerate(made, 1) if new), default=0)


@dataclass
class Job(Checkpointable):
    """A task of a job: carries out ``run`` of the sweep in ``folder``; submitit calls it.

    In a job of several tasks, the first one records and decides; the others only look after their own child.

    Attributes:
        limit: failures in a row without a new step after which the run has failed.
    """

    folder: str
    run: str
    limit: int = 3

    def __call__(self) -> None:
        """Ends with the child's exit code, 128 + N after signal N; returns if there is nothing to do."""
        received = _listen()
        sweep, job = SweepFolder(Path(self.folder)), JobEnvironment()
        run = sweep.run(self.run)
        while True:
            if _refused(sweep, run, job):
                return
            ended, following = self._try(sweep, run, job, received)
            if following != "retry" or launch.on_slurm(job):
                break
        if following in ("requeue", "retry") and launch.on_slurm(job):
            try:
                requeue(job)
            except UserError as error:
                reason = FOLLOWS.sub("", ended.reason)  # none does
                ended.reason = f"{reason}; not requeued: {error}".removeprefix("; ")
                sweep.write(run.id, ended)
        if code := ended.exit_code:
            sys.exit(code if code > 0 else 128 - code)  # as a shell tells a signal

    def _try(self, sweep: SweepFolder, run: Run, job: JobEnvironment, received: list[int]) -> tuple[Try, str]:
        """One try, and what follows."""
        words, attempt = launch.command(run, job), _begun(job, _resumed_step(sweep, run))
        if job.global_rank:
            attempt.exit_code = _carry_out(words, None, received, run.id)
            death.record(sweep, run, job, attempt.restart, attempt.exit_code)
            return attempt, "leave"
        sweep.begin(run.id, attempt)
        log, name = sweep.log(run.id, attempt.number), f"{run.id}/{attempt.number:03d}"
        code = _carry_out(words, log, received, name)
        now = sweep.status(run)
        own = now if now.get("try") == name else {}  # written by this try, not by an earlier one or another job's
        if run.launch.launcher == "torchrun" and own.get("exit_code") is not None:
            code = own["exit_code"]  # a launcher has its own
        if received and code == -signal.SIGTERM:  # a command that does not handle what we passed on
            code = INTERRUPTED
        attempt.ended, attempt.exit_code, attempt.step = time.time(), code, own.get("step", attempt.step_before)
        earliest = death.first(sweep, run, attempt.job, attempt.restart, log) if code != DONE else None
        if code != DONE:
            attempt.reason = death.reason(code, own, log, run.command, earliest)
        sweep.write(run.id, attempt)
        tries = [other for other in sweep.tries(run.id) if other.job == attempt.job]
        if tries[-1].number != attempt.number:  # this job's next life has begun: it decides
            return attempt, "leave"
        stopped = _stopped(job, received, resumes=COMMANDS[run.command].parts)
        following = after(tries, stopped, sweep.is_cancelled(run.id), self.limit)
        if following == "failed" and stopped == "limit":
            attempt.reason = f"the time limit came {self.limit} times without a new step: raise cluster.hours"
            sweep.write(run.id, attempt)
        elif following == "retry" and (earliest or code < 0):  # what was killed prints no reason itself
            count = futile(tries)
            attempt.reason += f"; try {count + 1} of {self.limit} follows" if count else "; another try follows"
            sweep.write(run.id, attempt)
        return attempt, following


def _listen() -> list[int]:
    """The signals received from now on; submitit's own handlers would end the job before its child."""
    received: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda got, _frame: received.append(got))
    return received


def _refused(sweep: SweepFolder, run: Run, job: JobEnvironment) -> bool:
    """Whether this run is not to be started: cancelled, done already, or without what it needs."""
    if sweep.is_cancelled(run.id) or is_done(sweep.tries(run.id)):
        logger.info("%s is cancelled or done", run.id)
        return True
    lacking = [needed for needed in run.needs if not is_done(sweep.tries(needed))]
    if lacking and job.global_rank == 0:
        attempt = sweep.begin(run.id, _begun(job, None))
        attempt.ended, attempt.reason = time.time(), f"blocked: {', '.join(lacking)} not done"
        sweep.write(run.id, attempt)
    return bool(lacking)


def _begun(job: JobEnvironment, step: int | None) -> Try:
    return Try(
        number=0, cluster=job.cluster, job=job.job_id, restart=launch.restarts(), nodes=list(job.hostnames),
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


def _carry_out(words: list[str], log: Path | None, received: list[int], name: str) -> int:
    """The exit code of ``words`` as a child, to which the first signal received is passed on as SIGTERM."""
    with Path(log or os.devnull).open("ab") as output:
        child = launch.start(words, output if log else None, name)
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


def _stopped(job: JobEnvironment, received: list[int], resumes: bool) -> str:
    """Why the signals came: see :func:`after`. ``resumes``: the command makes headway that no step shows."""
    if not received:
        return ""
    if received[0] in REQUEUEING:
        return "preempted" if resumes else "limit"
    return "preempted" if launch.on_slurm(job) and in_grace_time(job) else "ended"
