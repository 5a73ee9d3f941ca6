"""The end of a try: its reason, in one line, and what follows it.

    ends with                            then
    0                                    the run is done
    any code after SIGUSR1 or SIGUSR2    requeued: the time limit is near; not after the Nth time without a new step
    any code after SIGTERM               nothing: `scancel` sends it, and `scontrol requeue`, which requeues by itself;
                                         in a preemption's grace time requeued, as SLURM does only what it has to kill
    2 before any step                    the run has failed: bad input does not improve
    anything else                        requeued, unless it is the Nth failure in a row without a new step

A cancel wins over all.
"""

import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from submitit import JobEnvironment

from dira_scale.sweep.queue import restarts
from dira_scale.sweep.records import Run, SweepFolder, Try, end_of
from dira_scale.train.runs.exit_codes import BAD_INPUT, DONE, INTERRUPTED

# torchrun's summary names the process that failed first, and then its exit code: negative for a signal.
ROOT = re.compile(r"Root Cause.*?host\s*: (\S+).*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", re.DOTALL)
SILENT = re.compile(r"nothing yet from rank ([\d, ]+):")  # of train.engine.watchdog


def after(tries: Sequence[Try], stopped: str, cancelled: bool, limit: int) -> str:
    """Decide what follows a try that has ended: ``done``, ``requeue``, ``retry``, ``failed``, or ``leave`` for nothing.

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
        new_steps_in = [n for n, each in enumerate(tries, 1) if (each.step or 0) > (each.step_before or 0)]
        return "requeue" if len(tries) - max(new_steps_in, default=0) < limit else "failed"
    if stopped:
        return "requeue" if stopped == "preempted" else "leave"
    if last.exit_code == INTERRUPTED:  # somebody signalled the command itself
        return "leave"
    return "retry" if futile(tries) < limit else "failed"


def futile(tries: Sequence[Try]) -> int:
    """Count the last tries that have failed in a row without a new step; interruptions do not count."""
    best, count = 0, 0
    for attempt in tries:
        if (attempt.step_before or 0) > best:  # what a try without an end has reached, only the next one knows
            best, count = attempt.step_before or 0, 0
        if (attempt.step or 0) > best:
            best, count = attempt.step or 0, 0
        elif attempt.exit_code is None:  # killed with its job; the last one may still be running
            count += attempt.ended is None and attempt is not tries[-1]
        else:
            count += attempt.exit_code not in (DONE, INTERRUPTED)
    return count


def reason(code: int, status: Mapping[str, object], log: Path, command: str) -> str:
    """Return why a process ended with ``code``. ``status``: the content of ``status.json``; ``log``: what it printed.

    Of several processes under torchrun, the one that failed first is named.
    """
    if roots := ROOT.findall(end_of(log)):
        node, rank, first = roots[-1]
        if int(first) < 0:
            return f"rank {rank} on {node}: {_killed(int(first), status)}"
    return _killed(code, status) if code < 0 else str(status.get("reason") or last_message(log, command))


def record_task(sweep: SweepFolder, run: Run, job: JobEnvironment, code: int) -> None:
    """Write down why another task than the first has ended, for the first one to read."""
    if code not in (DONE, INTERRUPTED):
        log = sweep.path / "jobs" / f"{job.job_id}_{job.global_rank}_log.out"
        status = sweep.status(run)  # the first task's
        why = _killed(code, status) if code < 0 else last_message(log, run.command)
        (_of_tasks(sweep, run, job) / str(job.global_rank)).write_text(
            f"rank {job.global_rank} on {job.hostnames[job.node]}: {why}"
        )


def first_task(sweep: SweepFolder, run: Run, job: JobEnvironment) -> str:
    """Read what the task that ended first, other than the first task itself, has written down; empty if none has."""
    files = [*_of_tasks(sweep, run, job).iterdir()]
    return min(files, key=lambda file: file.stat().st_mtime).read_text() if files else ""


def silent_nodes(sweep: SweepFolder, run: Run, job: JobEnvironment, log: Path) -> list[str]:
    """Name the nodes that a hang has left without a sign of life: by ``log`` none of their processes has written its
    stacks, and no task there has ended."""
    if not (found := SILENT.findall(end_of(log))):
        return []
    each, ended = job.num_tasks // job.num_nodes, {int(file.name) for file in _of_tasks(sweep, run, job).iterdir()}
    silent = {int(rank) for rank in found[-1].split(",")} - ended
    return [host for i, host in enumerate(job.hostnames) if silent.issuperset(range(i * each, (i + 1) * each))]


def last_message(log: Path, name: str) -> str:
    """The line that says why the command ``name`` ended: its own last message, else the last line that it printed."""
    lines = [line.strip() for line in end_of(log).splitlines() if line.strip()]
    messages = [line for line in lines if line.startswith(f"{name}: ") and not line.startswith(f"{name}: warning: ")]
    return (messages or lines or [""])[-1]


def _killed(code: int, status: Mapping[str, object]) -> str:
    """``killed by SIGKILL at step 5: often memory (raise cluster.memory)``."""
    names = {int(number): number.name for number in signal.Signals}
    step = f" at step {status['step']}" if "step" in status else ""
    hint = ": often memory (raise cluster.memory)" if -code == signal.SIGKILL else ""
    return f"killed by {names.get(-code, f'signal {-code}')}{step}{hint}"


def _of_tasks(sweep: SweepFolder, run: Run, job: JobEnvironment) -> Path:
    """The folder for the tasks of this life of a job."""
    folder = sweep.path / run.id / "tries" / f"{job.job_id}.{restarts()}"
    folder.mkdir(exist_ok=True)
    return folder
