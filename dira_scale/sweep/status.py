"""The status of a sweep: the state of each run, and how far it is. Asks SLURM once for all runs; imports no torch."""

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dira_scale.errors import UserError
from dira_scale.runs.beat import has_stopped, seconds_without_beat
from dira_scale.sweep import unanswered
from dira_scale.sweep.living import is_controlled, is_here, living
from dira_scale.sweep.queue import GONE, PENDING, RUNNING, UNKNOWN, Answer, JobState, query
from dira_scale.sweep.records import Run, Submission, SweepFolder, Try, is_done
from dira_scale.sweep.state import Known, state

AT_WORK = ("queued", "running", "waiting")
TAIL = 65_536  # bytes at the end of metrics.jsonl, in which the last row of training is


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        state, reason: see :mod:`dira_scale.sweep.state`.
        job: id of its last job, as the records have it; empty if there is none.
        tries: oldest first.
        nodes: of its last try, or of its job.
    """

    run: Run
    state: str
    reason: str
    job: str
    tries: list[Try]
    nodes: str


@dataclass(frozen=True)
class Progress:
    """How far a run that trains is; None where it is not known, or for a command without steps.

    Attributes:
        images_per_second: or of what the run's task counts.
        to_go: seconds, at the speed of the current try.
    """

    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    images_per_second: float | None = None
    to_go: float | None = None


def read_statuses(folder: SweepFolder) -> tuple[dict[str, RunStatus], str]:
    """Where each run stands, by id, needed ones first, and what SLURM did not answer, if there is something.

    Raises UserError if there is no sweep in ``folder``.
    """
    statuses, answer = _survey(folder)
    return statuses, answer.problem


def present(folder: SweepFolder, statuses: Mapping[str, RunStatus]) -> dict[str, RunStatus]:
    """Return which of ``statuses`` the sweep has now, and those of earlier settings that are still at work."""
    now = set(folder.current)
    return {run_id: status for run_id, status in statuses.items() if run_id in now or status.state in AT_WORK}


def certain(folder: SweepFolder) -> dict[str, RunStatus]:
    """Return the statuses for those who start runs. Raises UserError where SLURM's queue is not known, too."""
    statuses, answer = _survey(folder)
    if not answer.complete:
        raise UserError(f"{answer.problem}: the queue is unknown; nothing was started")
    return statuses


def _survey(folder: SweepFolder) -> tuple[dict[str, RunStatus], Answer]:
    unsure = unanswered.find(folder)
    tries = {run_id: folder.tries(run_id) for run_id in folder.runs}
    jobs = last_jobs(folder)
    open_ones = {run_id for run_id, of in tries.items() if not is_done(of)}
    own = [job for run_id, (job, submission) in jobs.items() if run_id in open_ones and submission.cluster == "slurm"]
    answer, here, controlled = query(own), living(folder), is_controlled(folder)
    if unsure:
        answer = replace(answer, complete=False, problem=unsure)
    statuses: dict[str, RunStatus] = {}

    def of(run_id: str) -> RunStatus:
        if run_id not in statuses:
            run = folder.runs[run_id]
            needs = {need: of(need).state if need in folder.runs else "missing" for need in run.needs}
            job_id, submission = jobs.get(run_id, ("", None))
            job = None if submission is None else _job(job_id, submission, answer, run_id in here)
            attempts = tries[run_id]
            beats = _beats(folder.output(run), attempts[-1]) if attempts and attempts[-1].ended is None else None
            begun = any(attempt.job == job_id for attempt in attempts)
            without_log = str(folder.path) if job and not begun and _left_no_log(folder, job_id, job) else ""
            what, why = state(Known(attempts, folder.is_cancelled(run_id), needs, job_id, job, beats, without_log))
            if what == "missing" and controlled:
                what, why = "waiting", "until the machine has room for it"
            elif what == "waiting" and not job_id and not controlled:
                what, why = "missing", "the sweep's own command starts it"
            nodes = ",".join(attempts[-1].nodes) if attempts else job.nodes if job else ""
            statuses[run_id] = RunStatus(run, what, why, job_id, attempts, nodes)
        return statuses[run_id]

    @cache
    def depth(run_id: str) -> int:
        """How many runs have to be done before this one, one after another."""
        return max((1 + depth(need) for need in folder.runs[run_id].needs if need in folder.runs), default=0)

    ids = sorted(folder.runs, key=lambda run_id: (depth(run_id), _natural(run_id)))
    return {run_id: of(run_id) for run_id in ids}, answer


def states(folder: SweepFolder, runs: Sequence[Run]) -> tuple[dict[str, str], str]:
    """The state of each of ``runs``, recorded or not, and why SLURM's queue is not known, if it is not.

    A run that waits without a job is missing: nothing will start it but the sweep itself.
    """
    recorded = any(folder.path.glob("*/*/run.json"))
    statuses, answer = _survey(SweepFolder(folder.path)) if recorded else ({}, Answer())
    idle = {run_id for run_id, status in statuses.items() if status.state == "waiting" and not status.job}
    return {run.id: statuses[run.id].state if run.id in statuses.keys() - idle else "missing" for run in runs}, (
        "" if answer.complete else answer.problem
    )


def progress(folder: SweepFolder, run_status: RunStatus) -> Progress:
    """How far the run is, from its ``status.json`` and the last row of its metrics."""
    if not run_status.tries or not (status := folder.status(run_status.run)):
        return Progress()
    row = _last_row(folder.output(run_status.run) / "metrics.jsonl")
    step, steps, last = status.get("step"), status.get("steps"), run_status.tries[-1]
    speed = (step - (last.step_before or 0)) / max(1e-9, time.time() - last.began) if step else 0.0
    to_go = (steps - step) / speed if run_status.state == "running" and steps and step and speed > 0 else None
    rate = next((value for key, value in row.items() if key.endswith("_per_second")), None)
    return Progress(step, steps, row.get("loss"), rate, to_go)


def _natural(name: str) -> list[tuple[str, float]]:
    """Orders ``seed2`` before ``seed10``."""
    return [(text, float(number or 0)) for text, number in re.findall(r"(\D*)(\d+(?:\.\d+)?)?", name)]


def last_jobs(folder: SweepFolder) -> dict[str, tuple[str, Submission]]:
    """The last job of each run that was submitted."""
    jobs = {}
    for submission in folder.submissions:
        for task, run_id in enumerate(submission.runs):
            jobs[run_id] = (f"{submission.job}_{task}" if submission.cluster == "slurm" else submission.job), submission
    return jobs


def _job(job_id: str, submission: Submission, answer: Answer, lives: bool) -> JobState:
    if submission.cluster == "slurm":
        return answer.job(job_id)
    if not is_here(submission):
        return JobState(UNKNOWN, f"its process is on {submission.host}, out of reach from here")
    return JobState("RUNNING" if lives else GONE)


def _left_no_log(folder: SweepFolder, job_id: str, job: JobState) -> bool:
    """Whether a job has ended on a node of SLURM's, and its log is not here."""
    ended = bool(job.nodes) and job.state not in (*PENDING, *RUNNING)
    return ended and not any((folder.path / "jobs").glob(f"{job_id}_*log*"))


def _beats(output: Path, last: Try) -> bool | None:
    """Whether the lease that ``last`` has taken shows life; None if it has taken none."""
    silent = seconds_without_beat(output)
    return None if silent is None or silent > time.time() - last.began else not has_stopped(silent)


def _last_row(path: Path) -> Mapping[str, Any]:
    """The last complete row of training; empty without one."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - TAIL)
        file.seek(start)
        lines = file.read().split(b"\n")[bool(start) : -1]  # the first may lack its beginning, the last its end
    for line in reversed(lines):
        row: dict[str, Any] = json.loads(line)
        if row.get("split") == "train":
            return row
    return {}
