"""The status of a sweep as a table, with counts and a line for each run, and as JSON for programs."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dira_scale.machine.console import Console
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.state import STATES
from dira_scale.sweep.status import AT_WORK, Progress, RunStatus, present, progress, read_statuses
from dira_scale.sweep.usage import Usage, usage

WIDE = Console(width=10_000)  # measures what a table takes where there is room
FIGURES = ("step", "loss", "samples/s", "to go")
# The first that fits is shown; what the narrow one lacks of job, node and reason is below it, for each run in full.
LAYOUTS = (
    ("run", "state", *FIGURES, "job", "node", "tries", "reason"),
    ("run", "state", "step", "to go", "tries"),
)


def show(folder: SweepFolder, console: Console, watch: float | None) -> dict[str, RunStatus]:
    """Print the status; with ``watch``, again after so many seconds each, until nothing runs or Ctrl-C.

    Raises UserError if there is no sweep in ``folder``.
    """
    statuses, picture = _look(folder, console.width, watch is not None)
    if watch is None or not console.is_terminal:
        console.print(picture)
    else:
        with suppress(KeyboardInterrupt), Live(picture, console=console, auto_refresh=False) as live:
            while any(status.state in AT_WORK for status in statuses.values()):
                time.sleep(watch)
                statuses, picture = _look(SweepFolder(folder.path), console.width, True)
                live.update(picture, refresh=True)
    return statuses


def _look(folder: SweepFolder, width: int, watched: bool) -> tuple[dict[str, RunStatus], RenderableType]:
    everything, problem = read_statuses(folder)
    statuses = present(folder, everything)
    if watched:  # a long table is cut at the bottom
        statuses = dict(sorted(statuses.items(), key=lambda item: STATES.index(item[1].state)))
    problem = f"SLURM did not answer: {problem}" if problem else ""
    if earlier := len(everything) - len(statuses):
        problem = "; ".join(filter(None, [f"{earlier} runs of earlier settings are left out", problem]))
    far = {run_id: progress(folder, status) for run_id, status in statuses.items()}
    return statuses, draw(statuses, far, width, problem, usage(folder, statuses))


def draw(
    statuses: Mapping[str, RunStatus],
    far: Mapping[str, Progress],
    width: int,
    problem: str = "",
    used: Usage | None = None,
) -> RenderableType:
    """The picture for a terminal of ``width`` columns.

    Args:
        problem: what it does not show, and why.
        used: by all runs, once they have ended.
    """
    counts = Counter(status.state for status in statuses.values())
    counted = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    above = [Text(f"{counted}; {len(statuses)} runs")]
    if problem:
        above.append(Text(problem))
    rows = {run_id: _cells(status, far[run_id]) for run_id, status in statuses.items()}
    trains = any(made.step is not None for made in far.values())
    layouts = [[name for name in layout if trains or name not in FIGURES] for layout in LAYOUTS]
    fitting = (
        layout for layout in layouts if _table(layout, rows).__rich_measure__(WIDE, WIDE.options).maximum <= width
    )
    columns = next(fitting, layouts[-1])
    below = [Text(f"{run_id}: {text}") for run_id, row in rows.items() if (text := _rest(row, columns))]
    return Group(*above, _table(columns, rows), *below, *([Text(str(used))] if used else []))


def _table(columns: Sequence[str], rows: Mapping[str, Mapping[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    for name in columns:
        right = name in (*FIGURES, "tries")
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right or name == "state")
    for row in rows.values():
        table.add_row(*(Text(row[name]) for name in columns))
    return table


def _rest(row: Mapping[str, str], columns: Sequence[str]) -> str:
    """What the columns lack."""
    job = f"job {row['job']}" + (f" on {row['node']}" if row["node"] else "") if row["job"] else ""
    lacking = ["" if "job" in columns else job, "" if "reason" in columns else row["reason"]]
    return "; ".join(filter(None, lacking))


def _cells(status: RunStatus, far: Progress) -> dict[str, str]:
    about = {"run": status.run.id, "state": status.state, "job": status.job, "node": status.nodes}
    return about | {"reason": status.reason, "tries": str(len(status.tries) or "")} | _figures(far)


def _figures(far: Progress) -> dict[str, str]:
    step = "" if far.step is None else f"{far.step:,}" + (f"/{far.steps:,}" if far.steps else "")
    loss = "" if far.loss is None else f"{far.loss:.4g}"
    speed = "" if far.images_per_second is None else f"{far.images_per_second:,.0f}"
    to_go = "" if far.to_go is None else duration(far.to_go)
    return {"step": step, "loss": loss, "samples/s": speed, "to go": to_go}


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h`` or ``2.1 d``."""
    for unit, size, below in (("s", 1, 99), ("min", 60, 99), ("h", 3600, 48)):
        if seconds / size < below:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


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
