"""The state of a run: a function of its records, of SLURM's answer, and of its lease's beat.

    missing      not submitted, or its job ended before it began
    waiting      runs that it needs are not done yet
    queued       its job waits for nodes
    running
    interrupted  stopped, by a time limit, a preemption, a lost node or a person: it can continue
    done
    failed       its last try failed, and nothing tries again
    ended        its last try ended, and whether another follows is not known: SLURM does not answer
    blocked      a run that it needs will not be done
    cancelled    by ``sweep cancel``
    lost         its records say that it runs, but its job is gone and its lease shows no life

Running a sweep again starts the runs that are missing, interrupted, failed, lost, or blocked by those; not while SLURM
does not answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dira_scale.runs.exit_codes import BAD_INPUT, INTERRUPTED
from dira_scale.sweep.queue import GONE, PENDING, RUNNING, UNKNOWN, JobState, hint
from dira_scale.sweep.records import Try, is_done

STATES = (
    "running", "queued", "waiting", "ended", "done", "interrupted", "failed", "blocked", "cancelled", "lost", "missing",
)  # fmt: skip
HOPELESS = ("failed", "blocked", "cancelled", "lost")  # of a run that another needs, once no job is left
BROKEN = {  # ends of a job that are its own fault
    "FAILED": "its job failed",
    "OUT_OF_MEMORY": "out of memory; give it more by cluster.memory, or a smaller batch",
    "DEADLINE": "its job could not end before its deadline",
}
STOPPED = {  # ends by others' decision
    "TIMEOUT": "time limit",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "its job was ended by scancel",
    "REVOKED": "its job was revoked",
}


@dataclass(frozen=True)
class Known:
    """What is known about a run.

    Attributes:
        tries: oldest first.
        cancelled: whether the user has cancelled it.
        needs: states of the runs that it needs, by their ids.
        job: its last one, None if it was never submitted; ``id`` is its id.
        beats: whether the lease that the last try has taken shows life; None without such a lease.
        unseen: the sweep's folder, if the last job has begun there, and neither a log nor a try of it has appeared.
    """

    tries: Sequence[Try] = ()
    cancelled: bool = False
    needs: Mapping[str, str] | None = None
    id: str = ""
    job: JobState | None = None
    beats: bool | None = None
    unseen: str = ""


def state(known: Known) -> tuple[str, str]:
    """One of ``STATES``, and the reason for it in one line, which may be empty."""
    last, job = (known.tries[-1] if known.tries else None), known.job or JobState("")
    if is_done(known.tries):
        return "done", ""
    if known.cancelled:
        return "cancelled", "its job is still ending" if job.state in RUNNING else ""
    if job.state in RUNNING:
        return "running", _odd(known, last)
    if job.state in PENDING:
        return _pending(known, job, last)
    if last is None or (known.id and last.job != known.id):
        return _not_begun(known, job, last)
    if last.exit_code is None and last.ended is None:
        return _unended(known, job)
    return _ended(known, last, job)


def _pending(known: Known, job: JobState, last: Try | None) -> tuple[str, str]:
    if unmet := _unmet(known):
        return "waiting", f"for {', '.join(unmet)}"
    before = f"after try {last.number}: {last.reason or _how(last)}" if last else ""
    return "queued", "; ".join(filter(None, (hint(job.reason).replace(" JOB", f" {known.id}"), before)))


def _not_begun(known: Known, job: JobState, last: Try | None) -> tuple[str, str]:
    """Its last job is over, or there is none, and has not begun a try."""
    if job.state == UNKNOWN:
        return "queued", f"when it was submitted; {job.reason}"
    unmet = _unmet(known)
    if known.unseen and not unmet:
        return ("failed" if job.state in BROKEN else "lost"), _unseen(known, job)
    if job.state == GONE and not unmet:
        return "lost", f"job {known.id} is gone before the run began{_because(job)}"
    if job.state in BROKEN:
        return "failed", f"{BROKEN[job.state]} before the run began: see the logs of job {known.id} in jobs/"
    if last is not None:
        return _ended(known, last, job)
    if unmet:  # SLURM has ended a job that waited for them, if there was one
        hopeless = unmet if known.id else [need for need in unmet if known.needs and known.needs[need] in HOPELESS]
        return ("blocked", f"by {', '.join(hopeless)}") if hopeless else ("waiting", f"for {', '.join(unmet)}")
    return "missing", STOPPED.get(job.state, "")


def _unended(known: Known, job: JobState) -> tuple[str, str]:
    """The last try has not recorded its end: it runs, or was killed."""
    if job.state in STOPPED:
        return "interrupted", STOPPED[job.state]
    if job.state in BROKEN:
        return "failed", f"{BROKEN[job.state]}{_measured(job)}"
    if known.beats:
        return "running", f"its job is {job.state.lower() or 'not recorded'}, but its lease is alive{_because(job)}"
    if job.state == UNKNOWN and known.beats is None:
        return "running", f"when last recorded; {job.reason}"
    return "lost", f"its job is {job.state.lower() or 'not recorded'}, and its lease has expired{_because(job)}"


def _ended(known: Known, last: Try, job: JobState) -> tuple[str, str]:
    if last.exit_code is None and last.ended is not None:  # it did not start, for want of what it needs
        unmet = _unmet(known)
        return ("blocked", f"by {', '.join(unmet)}") if unmet else ("missing", "what it needs is done now")
    reason = last.reason or _how(last)
    if job.state == UNKNOWN and last.cluster == "slurm" and last.exit_code != BAD_INPUT:
        return "ended", f"{reason}; whether it is queued again is unknown: {job.reason}"
    if job.state == UNKNOWN:
        reason += f"; {job.reason}"
    return ("interrupted" if last.exit_code == INTERRUPTED else "failed"), f"{reason}{_measured(job)}"


def _unmet(known: Known) -> list[str]:
    return [need for need, state in (known.needs or {}).items() if state != "done"]


def _odd(known: Known, last: Try | None) -> str:
    if last is None or last.job != known.id:
        return _unseen(known, known.job or JobState("")) if known.unseen else "starting"
    return "its process shows no sign of life" if known.beats is False and last.ended is None else ""


def _unseen(known: Known, job: JobState) -> str:
    where = f"does {job.nodes or 'its node'} see {known.unseen}?"
    return f"no log appeared: {where} Mount it there, or put the sweep on a disk that all nodes see (folder=…)"


def _how(last: Try) -> str:
    if last.exit_code == INTERRUPTED:
        return "interrupted"
    return "no end recorded" if last.exit_code is None else f"exit code {last.exit_code}"


def _measured(job: JobState) -> str:
    return f" ({job.measured})" if job.measured else ""


def _because(job: JobState) -> str:
    return f" ({job.reason})" if job.reason else ""
