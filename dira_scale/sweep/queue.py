"""A sweep's calls of SLURM: the states of all its jobs at once (one squeue, and one sacct for those that have left its
memory), their GPU-hours, cancelling, and requeueing from inside a job."""

import logging
import os
import re
import subprocess
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from submitit import JobEnvironment
from submitit.slurm.slurm import SlurmInfoWatcher

from dira_scale.base.errors import UserError

logger = logging.getLogger(__name__)

SECONDS = 60  # bound on every call: these commands may wait long for a controller or a database that is down
PATIENCE = 120  # seconds for SLURM's controller to come back before a job gives up its requeue
TRANSIENT = ("contact", "has not answered", "by signal")  # a requeue's SIGTERM reaches scontrol, too
GONE, UNKNOWN = "GONE", "UNKNOWN"  # neither squeue nor sacct know the job; they do not answer
PENDING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED")
BROKEN = ("FAILED", "OUT_OF_MEMORY", "DEADLINE")  # ends of a job that are its own fault
STOPPED = ("TIMEOUT", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "CANCELLED", "REVOKED")  # by others' decision


@dataclass(frozen=True)
class JobState:
    """The state of a job in SLURM."""

    state: str  # SLURM's word, such as ``PENDING``; ``GONE``; ``UNKNOWN``
    reason: str = ""  # squeue's for a job that waits, sacct's exit code of one that broke; why the state is unknown
    nodes: str = ""  # as SLURM writes them, ``n[1-2]``; empty before it starts

    def __str__(self) -> str:
        """``OUT_OF_MEMORY (exit code 0:125)``."""
        return f"{self.state} ({self.reason})" if self.reason else self.state


@dataclass(frozen=True)
class Answer:
    """SLURM's answer: ``jobs`` by their ids, ``12_3`` in an array. ``problem``: why it does not say more."""

    jobs: dict[str, JobState] = field(default_factory=dict)
    complete: bool = True
    problem: str = ""

    def job(self, job: str) -> JobState:
        """The state of one of the jobs that the query was about."""
        return self.jobs.get(job) or JobState(GONE if self.complete else UNKNOWN, self.problem)


def query(jobs: Collection[str]) -> Answer:
    """The states of ``jobs``: ids, with the task where they are of an array. Never raises: see ``problem``."""
    if not jobs:
        return Answer()
    try:
        command = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={arrays(jobs)}", "--format=%i|%T|%r|%N"]
        rows = (line.split("|") for line in run_slurm(command, nothing="Invalid job id").splitlines())
        states = {job: JobState(state, reason if state in PENDING else "", nodes) for job, state, reason, nodes in rows}
    except UserError as error:
        return Answer({}, False, str(error))
    # SLURM forgets jobs some minutes after their end; of those that broke, accounting has the exit code.
    left = [job for job in jobs if job not in states or states[job].state in BROKEN]
    if not left:
        return Answer(states)
    try:
        command = ["sacct", "--parsable2", "--allocations", f"--jobs={arrays(left)}"]
        ended = SlurmInfoWatcher().read_info(run_slurm([*command, "--format=JobID,State,ExitCode,NodeList"]))
    except UserError as error:  # squeue has answered, so these jobs are at their end, however that was
        return Answer(states, True, str(error))
    for job, row in ended.items():
        state, nodes = row["State"].split()[0], row["NodeList"]  # CANCELLED by 1000
        if job in left and state not in (*PENDING, *RUNNING):  # accounting lags behind the queue
            reason = f"exit code {row['ExitCode']}" if state in BROKEN else ""
            states[job] = JobState(state, reason, "" if nodes == "None assigned" else nodes)
    return Answer(states)


def hours(jobs: Collection[str]) -> str:
    """GPU-hours of ``jobs``, every requeued life included, as SLURM accounts for them; core-hours if none had a GPU."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", f"--jobs={arrays(jobs)}"]
    try:
        rows = [row.split("|") for row in run_slurm([*command, "--format=JobID,ElapsedRaw,AllocTRES"]).splitlines()]
    except UserError as error:
        return f"GPU-hours unknown: {error}"
    used = {"gres/gpu": 0.0, "cpu": 0.0}
    for job, elapsed, resources in rows:
        counts = dict(part.split("=", 1) for part in resources.split(",") if "=" in part)
        for kind in used if job in jobs else ():
            used[kind] += int(elapsed or 0) * float(counts.get(kind, 0)) / 3600
    gpu, cpu = used["gres/gpu"], used["cpu"]
    if not gpu and not cpu:
        return "GPU-hours unknown: sacct has none of the jobs"
    return f"{gpu:,.2f} GPU-hours" if gpu else f"{cpu:,.2f} core-hours, no GPU"


def is_preempted(job: JobEnvironment) -> bool:
    """Return whether a preemption has begun, which sends SIGTERM as a cancel does.

    A job that ends by itself within the grace time is not requeued: SLURM requeues those that it has to kill.
    """
    try:
        job_text = _scontrol("show", "job", "--oneliner", job.job_id)
    except UserError as error:
        logger.warning("whether SLURM preempts job %s is unknown: %s", job.job_id, error)
        return False
    return bool(re.search(r"\bJobState=RUNNING\b.*\bPreemptTime=\d", job_text))


def requeue(job: JobEnvironment, without: Sequence[str] = ()) -> None:
    """Have SLURM start this job again, on other nodes than those ``without`` which it must go on: of itself SLURM
    avoids only nodes that it knows to be down.

    Not where SLURM has already done so, since the node was thought dead: this would end the job's second life.

    Raises UserError if SLURM does not start it again.
    """
    shown = _scontrol("show", "job", "--oneliner", job.job_id)
    match = re.search(r"\bRestarts=(\d+)", shown)
    if match is None or int(match[1]) != restarts():
        raise UserError("SLURM has restarted the job")
    _scontrol("requeue", job.job_id)
    if without:  # SLURM changes the list of waiting jobs alone; this one's end leaves the time
        nodes = [*re.findall(r"\bExcNodeList=([^\s(]+)", shown), *without]
        try:
            _scontrol("update", f"JobId={job.job_id}", f"ExcNodeList={','.join(nodes)}")
        except UserError as error:
            logger.warning("job %s may start on %s again: %s", job.job_id, ", ".join(without), error)


def restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _scontrol(*words: str) -> str:
    """Run scontrol and return its output, waiting for a controller that is being restarted. Raises UserError."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return run_slurm(["scontrol", *words])
        except UserError as error:
            if not any(text in str(error) for text in TRANSIENT) or time.monotonic() > deadline:
                raise
        time.sleep(1)


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
        words = [f"{array}_[{','.join(ids)}]" if all(ids) else array for array, ids in tasks.items()]
        run_slurm(["scancel", "--quiet", *words], nothing="Invalid job id")


def arrays(jobs: Collection[str]) -> str:
    """The numbers of the arrays that ``jobs`` are tasks of, as SLURM's commands take them."""
    return ",".join(sorted({job.partition("_")[0] for job in jobs}, key=int))


def run_slurm(command: list[str], nothing: str = "") -> str:
    """Output of a command of SLURM; ``nothing`` in its error means that it found nothing.

    Raises:
        UserError: SLURM is not installed here, or does not answer.
    """
    name = command[0]
    environment = os.environ | {"SLURM_BITSTR_LEN": "0"}  # ranges of tasks are not cut
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
    except FileNotFoundError as error:
        raise UserError(f"{name} is not installed here: use a login node, or bind it into the container") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{name} has not answered within {SECONDS} s; is SLURM's controller up (`sinfo`)?") from error
    if done.returncode and not (nothing and nothing in done.stderr):
        why = " ".join(done.stderr.split()) or (f"ended by signal {-done.returncode}" if done.returncode < 0 else "")
        raise UserError(f"{name} failed: {why}")
    return done.stdout
