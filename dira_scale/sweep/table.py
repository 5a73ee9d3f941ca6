"""The status of a sweep as a table, with counts and a line for each run, and as JSON for programs."""

import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dira_scale.errors import duration
from dira_scale.machine.console import Console
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.state import STATES
from dira_scale.sweep.status import AT_WORK, Progress, RunStatus, present, progress, read_statuses
from dira_scale.sweep.usage import Usage, usage

FIGURES = ("step", "loss", "samples/s", "to go")


def show(folder: SweepFolder, console: Console, watch: float | None) -> dict[str, RunStatus]:
    """Print the status; with ``watch``, again after so many seconds each, until nothing runs or Ctrl-C.

    Raises UserError if there is no sweep in ``folder``.
    """
    statuses, picture = _look(folder, watch is not None)
    if watch is None or not console.is_terminal:
        console.print(picture)
    else:
        with suppress(KeyboardInterrupt), Live(picture, console=console, auto_refresh=False) as live:
            while any(status.state in AT_WORK for status in statuses.values()):
                time.sleep(watch)
                statuses, picture = _look(SweepFolder(folder.path), True)
                live.update(picture, refresh=True)
    return statuses


def _look(folder: SweepFolder, watched: bool) -> tuple[dict[str, RunStatus], RenderableType]:
    everything, problem = read_statuses(folder)
    statuses = present(folder, everything)
    if watched:  # a long table is cut at the bottom
        statuses = dict(sorted(statuses.items(), key=lambda item: STATES.index(item[1].state)))
    problem = f"SLURM did not answer: {problem}" if problem else ""
    if earlier := len(everything) - len(statuses):
        problem = "; ".join(filter(None, [f"{earlier} runs of earlier settings are left out", problem]))
    far = {run_id: progress(folder, status) for run_id, status in statuses.items()}
    return statuses, draw(statuses, far, problem, usage(folder, statuses))


def draw(
    statuses: Mapping[str, RunStatus], far: Mapping[str, Progress], problem: str = "", used: Usage | None = None
) -> RenderableType:
    """The counts, the table, and below it a line for each run that has a job or a reason.

    Args:
        problem: what is not shown, and why.
        used: by all runs, once they have ended.
    """
    counts = Counter(status.state for status in statuses.values())
    counted = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    figures = FIGURES if any(made.step is not None for made in far.values()) else ()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    for name in ("run", "state", *figures, "tries"):
        justify = "left" if name in ("run", "state") else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name == "state")  # type: ignore[arg-type]
    for run_id, status in statuses.items():
        row = {"run": run_id, "state": status.state, "tries": str(len(status.tries) or "")} | _figures(far[run_id])
        table.add_row(*(Text(row[str(column.header)]) for column in table.columns))
    below = [f"{run_id}: {text}" for run_id, status in statuses.items() if (text := _details(status))]
    lines = [f"{counted}; {len(statuses)} runs", *filter(None, [problem])]
    return Group(*map(Text, lines), table, *map(Text, below), *([Text(str(used))] if used else []))


def _details(status: RunStatus) -> str:
    job = f"job {status.job}" + (f" on {status.nodes}" if status.nodes else "") if status.job else ""
    return "; ".join(filter(None, (job, status.reason)))


def _figures(far: Progress) -> dict[str, str]:
    return {
        "step": "" if far.step is None else f"{far.step:,}" + (f"/{far.steps:,}" if far.steps else ""),
        "loss": "" if far.loss is None else f"{far.loss:.4g}",
        "samples/s": "" if far.images_per_second is None else f"{far.images_per_second:,.0f}",
        "to go": "" if far.to_go is None else duration(far.to_go),
    }


def as_json(folder: SweepFolder) -> tuple[dict[str, RunStatus], dict[str, Any]]:
    """The runs that the sweep has now, by id, and what is known of them, ready for JSON.

    Raises UserError if there is no sweep in ``folder``.
    """
    everything, problem = read_statuses(folder)
    statuses = present(folder, everything)
    counts, used = Counter(status.state for status in statuses.values()), usage(folder, statuses)
    return statuses, {
        "folder": str(folder.path),
        "problem": problem,
        "counts": {state: counts[state] for state in STATES},
        "runs": [_as_json(folder, status) for status in statuses.values()],
        "usage": asdict(used) if used else None,
    }


def _as_json(folder: SweepFolder, status: RunStatus) -> dict[str, Any]:
    far = progress(folder, status)
    return {
        "phase": status.run.phase,
        "name": status.run.name,
        "state": status.state,
        "reason": status.reason,
        "job": status.job or None,
        "try": len(status.tries) or None,
        "node": status.nodes or None,
        "step": far.step,
        "steps": far.steps,
        "loss": far.loss,
        "images_per_second": far.images_per_second,
        "seconds_to_go": far.to_go,
        "folder": str(folder.path / status.run.id),
    }
