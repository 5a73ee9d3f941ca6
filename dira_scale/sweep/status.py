"""The status of a sweep: the state of each run, and how far it is. Asks SLURM once for all runs; imports no torch."""

import json
import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from dira_scale.base.errors import UserError
from dira_scale.sweep.queue import GONE, PENDING, RUNNING, UNKNOWN, Answer, JobState, hours, query
from dira_scale.sweep.records import Run, SweepFolder, Try, is_done
from dira_scale.sweep.state import RunFacts, state
from dira_scale.train.runs.heartbeat import has_stopped, seconds_without_beat

AT_WORK = ("queued", "running", "waiting")
TAIL = 65_536  # bytes at the end of metrics.jsonl, in which the last row of training is


@dataclass(frozen=True)
class RunStatus:
    """The status of a run.

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
    """The progress of a run that trains; None where it is unknown, or for a command without steps.

    Attributes:
        images_per_second: or of what the run's task counts.
        to_go: seconds, at the speed of the current try.
    """

    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    images_per_second: float | None = None
    to_go: float | None = None


def read_statuses(folder: SweepFolder) -> tuple[dict[str, RunStatus], Answer]:
    """Return the status of each run, by id, needed ones first, and SLURM's answer about their jobs.

    Raises UserError if there is no sweep in ``folder``.
    """
    tries, jobs = {run_id: folder.tries(run_id) for run_id in folder.runs}, folder.jobs
    answer = query([jobs[run_id][-1] for run_id in tries if run_id in jobs and not is_done(tries[run_id])])
    statuses: dict[str, RunStatus] = {}

    @cache
    def depth(run_id: str) -> int:
        """Return the length of the longest chain of runs that must be done before this one."""
        return max((1 + depth(need) for need in folder.runs[run_id].needs if need in folder.runs), default=0)

    numbers = re.compile(r"(\D*)(\d+(?:\.\d+)?)?")  # seed2 is before seed10
    names = {id: [(text, float(number or 0)) for text, number in numbers.findall(id)] for id in folder.runs}
    for run_id in sorted(folder.runs, key=lambda run_id: (depth(run_id), names[run_id])):
        run, attempts = folder.runs[run_id], tries[run_id]
        needs = {need: statuses[need].state if need in statuses else "missing" for need in run.needs}
        unmet = {need: state for need, state in needs.items() if state != "done"}
        job_id, job = _last_job(jobs.get(run_id, []), attempts, answer)
        beats = None  # where the last try has ended, or has taken no lease
        if attempts and attempts[-1].ended is None:
            silent = seconds_without_beat(folder.output(run))
            if silent is not None and silent <= time.time() - attempts[-1].began:
                beats = not has_stopped(silent)
        what, why = state(RunFacts(attempts, folder.is_cancelled(run_id), unmet, job_id, job, beats))
        nodes = ",".join(attempts[-1].nodes) if attempts else job.nodes if job else ""
        statuses[run_id] = RunStatus(run, what, why, job_id, attempts, nodes)
    return statuses, answer


def known_statuses(folder: SweepFolder) -> dict[str, RunStatus]:
    """The statuses for those who start runs. Raises UserError where SLURM's queue is not known, too."""
    statuses, answer = read_statuses(folder)
    if not answer.complete:
        raise UserError(f"{answer.problem}: the queue is unknown; nothing was started")
    return statuses


def present(folder: SweepFolder, statuses: Mapping[str, RunStatus]) -> dict[str, RunStatus]:
    """Return the ``statuses`` of the sweep's current runs, and those of earlier settings that are still at work."""
    now = set(folder.current)
    return {run_id: status for run_id, status in statuses.items() if run_id in now or status.state in AT_WORK}


def hours_used(folder: SweepFolder, statuses: Mapping[str, RunStatus]) -> str:
    """GPU-hours of all jobs of ``statuses``, by SLURM's accounting; empty while one is at work, or without jobs."""
    jobs = {job for run_id, ids in folder.jobs.items() if run_id in statuses for job in ids}
    at_work = any(status.state in AT_WORK for status in statuses.values())
    return "" if at_work or not jobs else hours(jobs)


def progress(folder: SweepFolder, run_status: RunStatus) -> Progress:
    """Read the run's progress from its ``status.json`` and the last row of its metrics."""
    if not run_status.tries or not (status := folder.status(run_status.run)):
        return Progress()
    row = _last_row(folder.output(run_status.run) / "metrics.jsonl")
    step, steps, last = status.get("step"), status.get("steps"), run_status.tries[-1]
    speed = (step - (last.step_before or 0)) / max(1e-9, time.time() - last.began) if step else 0.0
    to_go = (steps - step) / speed if run_status.state == "running" and steps and step and speed > 0 else None
    rate = next((value for key, value in row.items() if key.endswith("_per_second")), None)
    return Progress(step, steps, row.get("loss"), rate, to_go)


def _last_job(jobs: Sequence[str], tries: Sequence[Try], answer: Answer) -> tuple[str, JobState | None]:
    """The id and state of a run's last job: SLURM's, or the process of its last try here or on another machine."""
    job = answer.job(jobs[-1]) if jobs else None
    if not tries or tries[-1].cluster == "slurm" or (job and job.state in (*PENDING, *RUNNING)):
        return (jobs[-1], job) if jobs else ("", None)
    last = tries[-1]
    if last.nodes != [socket.gethostname()]:
        return last.job, JobState(UNKNOWN, f"its process is on {last.nodes[0]}, out of reach from here")
    with suppress(psutil.Error):
        process = psutil.Process(int(last.job))
        if process.create_time() <= last.began and process.status() != psutil.STATUS_ZOMBIE:
            return last.job, JobState("RUNNING")
    return last.job, JobState(GONE)


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
