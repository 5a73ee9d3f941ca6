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
from dira_scale.sweep.queue import BROKEN, GONE, PENDING, RUNNING, STOPPED, UNKNOWN, JobState
from dira_scale.sweep.records import Try, is_done

STATES = (
    "running", "queued", "waiting", "ended", "done", "interrupted", "failed", "blocked", "cancelled", "lost", "missing",
)  # fmt: skip
HOPELESS = ("failed", "blocked", "cancelled", "lost")  # of a run that another needs, once no job is left
NOT_SUBMITTED = JobState("")


@dataclass(frozen=True)
class Known:
    """What is known about a run.

    Attributes:
        tries: oldest first.
        cancelled: whether the user has cancelled it.
        needs: states of the runs that it needs, by their ids.
        id: of its last job.
        job: what SLURM says about that job; None if none was submitted.
        beats: whether the lease that the last try has taken shows life; None without such a lease.
        without_log: the sweep's folder, if the last job has ended on a node and has left no log there.
    """

    tries: Sequence[Try] = ()
    cancelled: bool = False
    needs: Mapping[str, str] | None = None
    id: str = ""
    job: JobState | None = None
    beats: bool | None = None
    without_log: str = ""

    @property
    def unmet(self) -> list[str]:
        """The runs that it needs and that are not done."""
        return [need for need, state in (self.needs or {}).items() if state != "done"]


def state(known: Known) -> tuple[str, str]:
    """One of ``STATES``, and the reason for it in one line, which may be empty."""
    last, job = (known.tries[-1] if known.tries else None), known.job or NOT_SUBMITTED
    if is_done(known.tries):
        return "done", ""
    if known.cancelled:
        return "cancelled", "its job is still ending" if job.state in RUNNING else ""
    if job.state in RUNNING:
        if last is None or last.job != known.id:
            return "running", "starting"
        silent = known.beats is False and last.ended is None
        return "running", "its process shows no sign of life" if silent else ""
    if job.state in PENDING:
        if known.unmet:
            return "waiting", f"for {', '.join(known.unmet)}"
        before = f"after try {last.number}: {reason(last)}" if last else ""
        return "queued", "; ".join(filter(None, (job.reason, before)))
    if last is None or (known.id and last.job != known.id):
        return _not_begun(known, job, last)
    if last.exit_code is None and last.ended is None:
        return _without_end(known, job)
    return _ended(known, last, job)


def reason(last: Try) -> str:
    """Why a try ended, as far as it was recorded."""
    if last.reason or last.exit_code == INTERRUPTED:
        return last.reason or "interrupted"
    return "no end recorded" if last.exit_code is None else f"exit code {last.exit_code}"


def _not_begun(known: Known, job: JobState, last: Try | None) -> tuple[str, str]:
    """Its last job is over, or there is none, and has not begun a try."""
    if job.state == UNKNOWN:
        return "queued", f"when it was submitted; {job.reason}"
    unmet = known.unmet
    if job.state in BROKEN or (not unmet and (job.state == GONE or known.without_log)):
        why = f"job {known.id} is {job} before the run began; {_where_to_look(known, job)}"
        return "failed" if job.state in BROKEN else "lost", why
    if last is not None:
        return _ended(known, last, job)
    if unmet:  # SLURM has ended a job that waited for them, if there was one
        hopeless = unmet if known.id else [need for need in unmet if known.needs and known.needs[need] in HOPELESS]
        return ("blocked", f"by {', '.join(hopeless)}") if hopeless else ("waiting", f"for {', '.join(unmet)}")
    return "missing", str(job) if job.state in STOPPED else ""


def _where_to_look(known: Known, job: JobState) -> str:
    if not known.without_log:
        return "see its logs in jobs/"
    where = f"does {job.nodes} see {known.without_log}?"
    return f"no log appeared: {where} Mount it there, or put the sweep on a disk that all nodes see (folder=…)"


def _without_end(known: Known, job: JobState) -> tuple[str, str]:
    """The last try has not recorded its end: it runs, or was killed."""
    if job.state in (*STOPPED, *BROKEN):
        return "interrupted" if job.state in STOPPED else "failed", f"its job ended as {job}"
    if known.beats:
        return "running", f"its job is {job}, but its lease is alive" if known.job else "its lease is alive"
    if job.state == UNKNOWN and known.beats is None:
        return "running", f"when last recorded; {job.reason}"
    return "lost", f"its job is {job}, and its lease has expired" if known.job else "its lease has expired"


def _ended(known: Known, last: Try, job: JobState) -> tuple[str, str]:
    if last.exit_code is None and last.ended is not None:  # it did not start, for want of what it needs
        return ("blocked", f"by {', '.join(known.unmet)}") if known.unmet else ("missing", "what it needs is done now")
    why = reason(last)
    if job.state == UNKNOWN and last.cluster == "slurm" and last.exit_code != BAD_INPUT:
        return "ended", f"{why}; whether it is queued again is unknown: {job.reason}"
    if job.state == UNKNOWN:
        why += f"; {job.reason}"
    elif job.state in BROKEN and job.reason:
        why += f"; its job ended as {job}"
    return ("interrupted" if last.exit_code == INTERRUPTED else "failed"), why
