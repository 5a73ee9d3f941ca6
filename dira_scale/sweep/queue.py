"""Asks SLURM about all jobs of a sweep at once: one squeue, and one sacct for those that have left its memory."""

import os
import re
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from dira_scale.errors import UserError

SECONDS = 60  # bound on every call: these commands may wait long for a controller or a database that is down
GONE, UNKNOWN = "GONE", "UNKNOWN"  # neither squeue nor sacct know the job; they do not answer
NO_NODES = re.compile("^None assigned$")  # sacct's words
PENDING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
BROKE = ("FAILED", "OUT_OF_MEMORY")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED")
# Reasons of waiting jobs (squeue(1), JOB REASON CODES) that name what to do.
HINTS = {
    "Resources": "waits for free nodes",
    "Priority": "other jobs come first",
    "JobArrayTaskLimit": "as many of the sweep's runs are running as cluster.parallel allows",
    "PartitionTimeLimit": "never starts: cluster.hours is more than its partition allows",
    "PartitionNodeLimit": "never starts: more nodes than its partition has or allows",
    "PartitionDown": "its partition is closed",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "BadConstraints": "never starts: no node has what the profile asks for",
    "BeginTime": "was requeued; starts soon",
    "JobHeldUser": "held; scontrol release JOB",
    "JobHeldAdmin": "held by an administrator",
    "JobLaunchFailure": "a node could not start it; held: scontrol release JOB",
    "InvalidAccount": "never starts: the account may no longer be used",
    "InvalidQOS": "never starts: the QOS may no longer be used",
}


@dataclass(frozen=True)
class JobState:
    """What SLURM says about a job.

    Attributes:
        state: SLURM's word, such as ``PENDING``; ``GONE``; ``UNKNOWN``.
        reason: why it waits, or is unknown.
        nodes: as SLURM writes them, ``n[1-2]``; empty before it starts.
        measured: exit code and memory of one that broke, for a person to read; empty without accounting.
        seconds: for which it has had its nodes, as far as known.
    """

    state: str
    reason: str = ""
    nodes: str = ""
    measured: str = ""
    seconds: int = 0


@dataclass(frozen=True)
class Answer:
    """What SLURM said: ``jobs`` by their ids, ``12_3`` in an array. ``problem``: why it did not say more."""

    jobs: dict[str, JobState] = field(default_factory=dict)
    complete: bool = True
    problem: str = ""

    def job(self, job: str) -> JobState:
        """The state of a job that was asked for."""
        return self.jobs.get(job) or JobState(GONE if self.complete else UNKNOWN, self.problem)


def ask(jobs: Collection[str]) -> Answer:
    """The states of ``jobs``: ids, with the task where they are of an array. Never raises: see ``problem``."""
    if not jobs:
        return Answer()
    try:
        squeue = [
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            f"--jobs={_arrays(jobs)}",
            "--format=%i|%T|%r|%N|%M",
        ]
        answered = dict(_rows(run_slurm(squeue, nothing="Invalid job id")))
    except UserError as error:
        return Answer({}, False, str(error))
    # SLURM forgets jobs some minutes after their end; of those that broke, accounting knows more.
    left = [job for job in jobs if job not in answered or answered[job].state in BROKE]
    if not left:
        return Answer(answered)
    try:
        sacct = ["sacct", "--noheader", "--parsable2", "--units=M", f"--jobs={_arrays(left)}"]
        ended = _accounted(run_slurm([*sacct, "--format=JobID,State,ExitCode,MaxRSS,NodeList,ElapsedRaw"]))
    except UserError as error:  # the queue has been asked, so these jobs are at their end, however that was
        return Answer(answered, True, str(error))
    # Accounting lags behind the queue: what it takes for waiting or running is not, as squeue does not know it.
    ended = {job: job_state for job, job_state in ended.items() if job_state.state not in (*PENDING, *RUNNING)}
    return Answer(answered | {job: job_state for job, job_state in ended.items() if job in left})


def cancel(jobs: Collection[str]) -> None:
    """End ``jobs``, waiting or running; those that have ended stay as they are.

    Raises:
        UserError: SLURM does not answer.
    """
    tasks: dict[str, list[str]] = {}
    for job in jobs:
        array, _, task = job.partition("_")
        tasks.setdefault(array, []).append(task)
    if tasks:
        words = [f"{array}_[{','.join(of)}]" if all(of) else array for array, of in tasks.items()]
        run_slurm(["scancel", "--quiet", *words], nothing="Invalid job id")


def expand(job: str) -> list[str]:
    """The ids in ``12_[3-5,9%4]``, waiting tasks of an array; of any other id, itself."""
    array, bracket, ranges = job.partition("_[")
    if not bracket:
        return [job]
    tasks = []
    for part in ranges.rstrip("]").partition("%")[0].split(","):
        first, last, step = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part).groups()  # type: ignore[union-attr]
        tasks += [f"{array}_{task}" for task in range(int(first), int(last or first) + 1, int(step or 1))]
    return tasks


def hint(reason: str) -> str:
    """A waiting job's reason, with what it means. ``ReqNodeNotAvail, UnavailableNodes:n4`` is one with details."""
    known = HINTS.get(reason.partition(",")[0])
    return f"{reason}: {known}" if known else reason


def _arrays(jobs: Collection[str]) -> str:
    return ",".join(sorted({job.partition("_")[0] for job in jobs}, key=int))


def _rows(text: str) -> Iterator[tuple[str, JobState]]:
    """Return the rows of squeue's lines ``ID|STATE|REASON|NODES|ELAPSED``."""
    for line in text.splitlines():
        job, state, reason, nodes, elapsed = (*line.split("|"), "", "", "")[:5]
        known = JobState(
            state, "" if reason == "None" else reason.lstrip("(").rstrip(")"), nodes, seconds=_seconds(elapsed)
        )
        for task in expand(job):
            yield task, known


def _seconds(text: str) -> int:
    """Return the seconds of ``[[DAYS-]HOURS:]MINUTES:SECONDS``; 0 for anything else."""
    match = re.fullmatch(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)", text)
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    return 86400 * days + 3600 * hours + 60 * minutes + seconds


def _accounted(text: str) -> dict[str, JobState]:
    """Return what is accounted in lines ``ID|STATE|EXIT:SIGNAL|MEMORY|NODES|SECONDS``: of a job, and of its steps
    (``12_3.batch``), which have its memory."""
    states: dict[str, JobState] = {}
    codes: dict[str, str] = {}
    memory: dict[str, float] = {}
    for line in text.splitlines():
        job, state, code, most, nodes, seconds = (*line.split("|"), "", "", "", "")[:6]
        job, _, step = job.partition(".")
        memory[job] = max(memory.get(job, 0.0), float(most.rstrip("M") or 0) * 2**20 / 1e9)
        if not step or codes.get(job) in ("", "0:0"):
            codes[job] = code
        if not step:
            known = JobState(state.split()[0], nodes=NO_NODES.sub("", nodes), seconds=int(seconds or 0))
            states |= dict.fromkeys(expand(job), known)  # CANCELLED by 1000
    for job, job_state in states.items():
        if job_state.state in BROKE and codes.get(job):
            most = f", {memory[job]:.1f} GB of memory" if memory[job] else ""
            states[job] = replace(job_state, measured=f"exit code {codes[job]}{most}, says sacct")
    return states


def run_slurm(command: list[str], nothing: str = "") -> str:
    """Output of a command of SLURM; ``nothing`` in its error means that it found nothing.

    Raises:
        UserError: SLURM is not installed here, or does not answer.
    """
    name = command[0]
    whole = os.environ | {"SLURM_BITSTR_LEN": "0"}  # ranges of tasks are not cut
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=whole)
    except FileNotFoundError as error:
        raise UserError(f"{name} is not installed here: use a login node, or bind it into the container") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{name} has not answered within {SECONDS} s; is SLURM's controller up (`sinfo`)?") from error
    if done.returncode and not (nothing and nothing in done.stderr):
        why = " ".join(done.stderr.split()) or (f"ended by signal {-done.returncode}" if done.returncode < 0 else "")
        raise UserError(f"{name} failed: {why}")
    return done.stdout
