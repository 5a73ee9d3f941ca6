"""The status of a sweep: the state of each run, and how far it is, for programs and as a table. Asks SLURM once for all
runs; imports no torch."""

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dira_scale.base.errors import UserError, duration
from dira_scale.base.machine.console import Console
from dira_scale.sweep.queue import GONE, PENDING, RUNNING, UNKNOWN, Answer, JobState, hours, query
from dira_scale.sweep.records import Run, SweepFolder, Try, end_of, is_done
from dira_scale.sweep.state import STATES, RunFacts, state
from dira_scale.train.runs.heartbeat import has_stopped, seconds_without_beat

AT_WORK = ("queued", "running", "waiting")
TAIL = 65_536  # bytes at the end of metrics.jsonl, in which the last row of training is


@dataclass(frozen=True)
class RunStatus:
    """The status of a run; see :mod:`dira_scale.sweep.state`."""

    run: Run
    state: str
    reason: str
    job: str  # id of its last job, as the records have it; empty if there is none
    tries: list[Try]  # oldest first
    nodes: str  # of its last try, or of its job


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
    """The statuses for those who start runs; none before there is a sweep. Raises UserError where SLURM's queue is not
    known."""
    if not any(folder.path.glob("*/*/run.json")):
        return {}
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


def progress(folder: SweepFolder, run_status: RunStatus) -> dict[str, Any]:
    """Read how far a run is that trains, and at what speed, from its ``status.json`` and the last row of its metrics.

    What is unknown, or of a command without steps, is None. ``images_per_second``: or of what the run's task counts.
    """
    status = folder.status(run_status.run) if run_status.tries else {}
    row = _last_row(folder.output(run_status.run) / "metrics.jsonl") if status else {}
    step, steps, to_go = status.get("step"), status.get("steps"), None
    if run_status.state == "running" and steps and step:
        last = run_status.tries[-1]  # whose speed it is
        speed = (step - (last.step_before or 0)) / max(1e-9, time.time() - last.began)
        to_go = (steps - step) / speed if speed > 0 else None
    rate = next((value for key, value in row.items() if key.endswith("_per_second")), None)
    return {"step": step, "steps": steps, "loss": row.get("loss"), "images_per_second": rate, "seconds_to_go": to_go}


def overview(folder: SweepFolder) -> tuple[dict[str, Any], int]:
    """Return what is known of the sweep's present runs, ready for JSON, and the number of runs of earlier settings.

    Raises UserError if there is no sweep in ``folder``.
    """
    everything, answer = read_statuses(folder)
    statuses = present(folder, everything)
    counts = Counter(status.state for status in statuses.values())
    runs = [
        {
            "phase": status.run.phase,
            "name": status.run.name,
            "state": status.state,
            "reason": status.reason,
            "job": status.job or None,
            "try": len(status.tries) or None,
            "node": status.nodes or None,
            **progress(folder, status),
            "folder": str(folder.path / run_id),
        }
        for run_id, status in statuses.items()
    ]
    return {
        "folder": str(folder.path),
        "problem": answer.problem,
        "counts": {state: counts[state] for state in STATES},
        "runs": runs,
        "used": hours_used(folder, statuses) or None,
    }, len(everything) - len(statuses)


def show(folder: SweepFolder, console: Console, watch: float | None) -> dict[str, Any]:
    """Print the status; with ``watch``, again after so many seconds each, until nothing runs or Ctrl-C.

    Raises UserError if there is no sweep in ``folder``.
    """
    content, earlier = overview(folder)
    if watch is None or not console.is_terminal:
        console.print(_picture(content, earlier))
    else:
        with suppress(KeyboardInterrupt), Live(_picture(content, earlier), console=console, auto_refresh=False) as live:
            while any(content["counts"][state] for state in AT_WORK):
                time.sleep(watch)
                content, earlier = overview(SweepFolder(folder.path))
                live.update(_picture(content, earlier), refresh=True)
    return content


def _picture(content: dict[str, Any], earlier: int) -> RenderableType:
    """Counts, a table of the runs, and below it a line for each with a job or a reason."""
    counted = ", ".join(f"{count} {state}" for state, count in content["counts"].items() if count)
    lines = [f"{counted}; {len(content['runs'])} runs"]
    if earlier:
        lines.append(f"{earlier} runs of earlier settings are left out")
    if content["problem"]:
        lines.append(f"SLURM did not answer: {content['problem']}")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    for name in ("run", "state", "step", "loss", "samples/s", "to go", "tries"):
        table.add_column(name, overflow="fold", no_wrap=name == "state")
    below = []
    for run in content["runs"]:
        run_id, step, steps, loss = f"{run['phase']}/{run['name']}", run["step"], run["steps"], run["loss"]
        cells = (
            run_id,
            run["state"],
            "" if step is None else f"{step:,}" + (f"/{steps:,}" if steps else ""),
            "" if loss is None else f"{loss:.4g}",
            "" if run["images_per_second"] is None else f"{run['images_per_second']:,.0f}",
            "" if run["seconds_to_go"] is None else duration(run["seconds_to_go"]),
            str(run["try"] or ""),
        )
        table.add_row(*map(Text, cells))
        job = f"job {run['job']}" + (f" on {run['node']}" if run["node"] else "") if run["job"] else ""
        if why := "; ".join(filter(None, (job, run["reason"]))):
            below.append(f"{run_id}: {why}")
    used = [content["used"]] if content["used"] else []
    return Group(*map(Text, lines), table, *map(Text, (*below, *used)))


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
    cut = path.is_file() and path.stat().st_size > TAIL
    lines = end_of(path, TAIL).split("\n")[cut:-1]  # the first may lack its beginning, the last its end
    for line in reversed(lines):
        row: dict[str, Any] = json.loads(line)
        if row.get("split") == "train":
            return row
    return {}
