"""What a sweep has used once nothing of it is at work: tries, time on GPUs or cores, and the share that trained.

GPU-hours are SLURM's accounting of all jobs of these runs, every requeued life of a job included: time on nodes times
GPUs. Core-hours take their place where no job had a GPU. The efficiency is the share of the time of all tries of
commands that train that went into optimizer steps: ``time/step`` of the rows in ``metrics.jsonl``, each step once. The
rest is start-up, waiting for data, validation, checkpoints, and steps that were made again.

What has been read and queried once is kept in the sweep's ``usage.json``, until there is another try.
"""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

from dira_scale.commands import COMMANDS
from dira_scale.errors import UserError
from dira_scale.storage.atomic import write_json
from dira_scale.sweep.queue import run_slurm
from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.state import STATES
from dira_scale.sweep.status import AT_WORK, RunStatus

SETTLED = 60  # seconds after the last end in which accounting may still lag behind


@dataclass(frozen=True)
class Usage:
    """``None`` is unknown.

    Attributes:
        counts: runs by state.
        tries, hours: of all runs, and their length.
        gpu_hours, core_hours: by sacct.
        unaccounted: why these are unknown.
        efficiency: see above.
    """

    counts: Mapping[str, int]
    tries: int
    hours: float
    gpu_hours: float | None
    core_hours: float | None
    unaccounted: str
    efficiency: float | None

    def __str__(self) -> str:
        """One line."""
        states = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        if self.gpu_hours is None or self.core_hours is None:
            spent = f"GPU-hours unknown ({self.unaccounted})"
        elif self.gpu_hours:
            spent = f"{self.gpu_hours:,.2f} GPU-hours"
        else:
            spent = f"{self.core_hours:,.2f} core-hours, no GPU"
        share = "unknown" if self.efficiency is None else f"{100 * self.efficiency:.0f} %"
        tries = f"{self.tries} {'try' if self.tries == 1 else 'tries'} of {self.hours:,.2f} h together"
        return f"{states}; {tries}; {spent}; efficiency {share}"


def usage(folder: SweepFolder, runs: Mapping[str, RunStatus]) -> Usage | None:
    """What ``runs`` have used; None while one of them is at work."""
    if any(run.state in AT_WORK for run in runs.values()):
        return None
    path = folder.path / "usage.json"
    of = {run_id: [run.state, *([attempt.number, attempt.ended] for attempt in run.tries)]
          for run_id, run in runs.items()}  # fmt: skip
    with suppress(OSError, ValueError, KeyError, TypeError):  # damaged, or of another version
        if (kept := json.loads(path.read_text()))["of"] == of:
            return Usage(**kept["usage"])
    used, last = _usage(folder, runs)
    if not used.unaccounted and last < time.time() - SETTLED:
        with suppress(OSError):  # somebody who may only look
            write_json(path, {"of": of, "usage": asdict(used)})
    return used


def _usage(folder: SweepFolder, runs: Mapping[str, RunStatus]) -> tuple[Usage, float]:
    """Return the usage, read and queried, and when the last try ended."""
    counts = Counter(run.state for run in runs.values())
    spans = {run_id: _spans(folder, run) for run_id, run in runs.items()}
    seconds = {run_id: sum(end - began for began, end in each) for run_id, each in spans.items()}
    trained = [run_id for run_id, run in runs.items() if COMMANDS[run.run.command].trains and run.tries]
    in_steps = [_in_steps(folder, runs[run_id]) for run_id in trained]
    known = [each for each in in_steps if each is not None]
    total = sum(seconds[run_id] for run_id in trained)
    efficiency = sum(known) / total if known and len(known) == len(in_steps) and total else None
    try:
        gpus, cores, problem = *_accounted(folder, runs), ""
    except UserError as error:
        gpus, cores, problem = None, None, str(error)
    by_state = {state: counts[state] for state in STATES if counts[state]}
    count = sum(map(len, spans.values()))
    last = max((end for each in spans.values() for _, end in each), default=0.0)
    return Usage(by_state, count, sum(seconds.values()) / 3600, gpus, cores, problem, efficiency), last


def _spans(folder: SweepFolder, status: RunStatus) -> list[tuple[float, float]]:
    """When each try began and ended; one that was killed ended when it printed or wrote last."""
    spans = []
    for attempt in status.tries:
        files = [folder.log(status.run.id, attempt.number), folder.output(status.run) / "metrics.jsonl"]
        last = max((file.stat().st_mtime for file in files if file.is_file()), default=attempt.began)
        ended = max(attempt.began, min(last, time.time())) if attempt.ended is None else attempt.ended
        spans.append((attempt.began, ended))
    return spans


def _in_steps(folder: SweepFolder, status: RunStatus) -> float | None:
    """Seconds in optimizer steps, each counted once, as its last repetition; None if the records do not say."""
    rows = {row["step"]: row for row in _training_rows(folder, status.run)}
    if not all("time/step" in row for row in rows.values()) or (
        not rows and any(attempt.step for attempt in status.tries)
    ):
        return None
    return float(sum(row["time/step"] for row in rows.values()))


def _training_rows(folder: SweepFolder, run: Run) -> Iterator[Mapping[str, float]]:
    path = folder.output(run) / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        with suppress(ValueError):  # a row that was cut while it was written
            if (row := json.loads(line)).get("split") == "train":
                yield row


def _accounted(folder: SweepFolder, statuses: Mapping[str, RunStatus]) -> tuple[float, float]:
    """GPU-hours and core-hours. Raises UserError where nothing counts them."""
    jobs, elsewhere = _jobs(folder, statuses)
    if not jobs:
        raise UserError("only SLURM's accounting has them")
    arrays = ",".join(sorted({job.partition("_")[0] for job in jobs}, key=int))
    rows = run_slurm([
        "sacct", "--noheader", "--parsable2", "--allocations", "--duplicates", f"--jobs={arrays}",
        "--format=JobID,ElapsedRaw,AllocTRES",
    ]).splitlines()  # fmt: skip
    counted = [row for row in (line.split("|") for line in rows) if len(row) == 3 and row[0] in jobs]
    if not counted:
        raise UserError("sacct has none of the jobs")
    if elsewhere:
        raise UserError("some runs were no jobs of SLURM's")
    hours = {"gres/gpu": 0.0, "cpu": 0.0}
    for _, elapsed, tres in counted:
        given = dict(part.split("=", 1) for part in tres.split(",") if "=" in part)
        for kind in hours:
            hours[kind] += int(elapsed or 0) * float(given.get(kind, 0)) / 3600
    return hours["gres/gpu"], hours["cpu"]


def _jobs(folder: SweepFolder, statuses: Mapping[str, RunStatus]) -> tuple[set[str], bool]:
    """Every job of SLURM's of these runs, and whether they had others."""
    jobs, elsewhere = set[str](), False
    for submission in folder.submissions:
        tasks = [task for task, run_id in enumerate(submission.runs) if run_id in statuses]
        if submission.cluster == "slurm":
            jobs |= {f"{submission.job}_{task}" for task in tasks}
        else:
            elsewhere = elsewhere or bool(tasks)
    return jobs, elsewhere
