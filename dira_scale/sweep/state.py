"""The state of a run: a function of its records, of SLURM's answer, and of its lease's beat.

    missing      not submitted, or its job ended before it began
    waiting      its job waits for runs that it needs
    queued       its job waits for nodes
    running
    interrupted  stopped, by a time limit, a preemption, a lost node or a person: it can continue
    done
    failed       its last try failed, and nothing tries again
    blocked      a run that it needs will not be done
    cancelled    by ``sweep cancel``
    lost         its records say that it runs, but its job is gone and its lease shows no life

Running a sweep again starts the runs that are missing, interrupted, failed, lost, or blocked by those; not while SLURM
does not answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dira_scale.sweep.queue import BROKEN, GONE, PENDING, RUNNING, STOPPED, UNKNOWN, JobState
from dira_scale.sweep.records import Try, is_done
from dira_scale.train.runs.exit_codes import INTERRUPTED

STATES = ("running", "queued", "waiting", "done", "interrupted", "failed", "blocked", "cancelled", "lost", "missing")
HOPELESS = ("failed", "blocked", "cancelled", "lost")  # of a run that another needs, once no job is left
NOT_SUBMITTED = JobState("")


@dataclass(frozen=True)
class RunFacts:
    """The facts from which a run's state is derived."""

    tries: Sequence[Try] = ()  # oldest first
    cancelled: bool = False  # by the user
    needs: Mapping[str, str] = field(default_factory=dict)  # states of the runs that it needs and that are not done
    id: str = ""  # of its last job
    job: JobState | None = None  # what SLURM says about that job; None if none was submitted
    beats: bool | None = None  # whether the lease that the last try has taken shows life; None without such a lease


def state(facts: RunFacts) -> tuple[str, str]:
    """One of ``STATES``, and the reason for it in one line, which may be empty."""
    last, job = (facts.tries[-1] if facts.tries else None), facts.job or NOT_SUBMITTED
    if is_done(facts.tries):
        return "done", ""
    if facts.cancelled:
        return "cancelled", "its job is still ending" if job.state in RUNNING else ""
    if job.state in RUNNING:
        if last is None or last.job != facts.id:
            return "running", "starting"
        silent = facts.beats is False and last.ended is None
        return "running", "its process shows no sign of life" if silent else ""
    if job.state in PENDING:
        if facts.needs:
            return "waiting", f"for {', '.join(facts.needs)}"
        before = f"after try {last.number}: {reason(last)}" if last else ""
        return "queued", "; ".join(filter(None, (job.reason, before)))
    if last is None or (facts.id and last.job != facts.id):
        return _not_begun(facts, job, last)
    if last.exit_code is None and last.ended is None:
        if job.state in (*STOPPED, *BROKEN):  # the last try runs, or was killed
            return "interrupted" if job.state in STOPPED else "failed", f"its job ended as {job}"
        if facts.beats:
            return "running", f"its job is {job}, but its lease is alive" if facts.job else "its lease is alive"
        if job.state == UNKNOWN and facts.beats is None:
            return "running", f"when last recorded; {job.reason}"
        return "lost", f"its job is {job}, and its lease has expired" if facts.job else "its lease has expired"
    return _ended(facts, last, job)


def reason(last: Try) -> str:
    if last.reason or last.exit_code == INTERRUPTED:
        return last.reason or "interrupted"
    return "no end recorded" if last.exit_code is None else f"exit code {last.exit_code}"


def _not_begun(facts: RunFacts, job: JobState, last: Try | None) -> tuple[str, str]:
    """Return the state of a run whose last job, if there is one, is over and has not begun a try."""
    if job.state == UNKNOWN:
        return "queued", f"when it was submitted; {job.reason}"
    if job.state in BROKEN or (job.state == GONE and not facts.needs):
        hint = "see its logs in jobs/; if there is none, its node does not see this folder"
        return "failed" if job.state in BROKEN else "lost", f"job {facts.id} is {job} before the run began; {hint}"
    if last is not None:
        return _ended(facts, last, job)
    # SLURM has ended a job that waited for them, if there was one.
    hopeless = [need for need, state in facts.needs.items() if facts.id or state in HOPELESS]
    if hopeless:
        return "blocked", f"by {', '.join(hopeless)}"
    return "missing", str(job) if job.state in STOPPED else ""


def _ended(facts: RunFacts, last: Try, job: JobState) -> tuple[str, str]:
    if last.exit_code is None and last.ended is not None:  # it did not start, for want of what it needs
        return ("blocked", f"by {', '.join(facts.needs)}") if facts.needs else ("missing", "what it needs is done now")
    why = reason(last)
    if job.state == UNKNOWN:
        why += f"; {job.reason}"
    elif job.state in BROKEN and job.reason:
        why += f"; its job ended as {job}"
    return ("interrupted" if last.exit_code == INTERRUPTED else "failed"), why
