"""The status of a sweep as a table, with counts and a line for each run, and as JSON for programs."""

import time
from collections import Counter
from contextlib import suppress
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dira_scale.errors import duration
from dira_scale.machine.console import Console
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.state import STATES
from dira_scale.sweep.status import AT_WORK, Progress, RunStatus, hours_used, present, progress, read_statuses


def show(folder: SweepFolder, console: Console, watch: float | None) -> dict[str, RunStatus]:
    """Print the status; with ``watch``, again after so many seconds each, until nothing runs or Ctrl-C.

    Raises UserError if there is no sweep in ``folder``.
    """
    statuses, picture = _look(folder)
    if watch is None or not console.is_terminal:
        console.print(picture)
    else:
        with suppress(KeyboardInterrupt), Live(picture, console=console, auto_refresh=False) as live:
            while any(status.state in AT_WORK for status in statuses.values()):
                time.sleep(watch)
                statuses, picture = _look(SweepFolder(folder.path))
                live.update(picture, refresh=True)
    return statuses


def _look(folder: SweepFolder) -> tuple[dict[str, RunStatus], RenderableType]:
    """The runs that the sweep has now; counts, a table of them, and below it a line for each with a job or a reason."""
    everything, answer = read_statuses(folder)
    statuses = present(folder, everything)
    counts = Counter(status.state for status in statuses.values())
    counted = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    lines = [f"{counted}; {len(statuses)} runs"]
    if earlier := len(everything) - len(statuses):
        lines.append(f"{earlier} runs of earlier settings are left out")
    if answer.problem:
        lines.append(f"SLURM did not answer: {answer.problem}")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="")
    for name in ("run", "state", "step", "loss", "samples/s", "to go", "tries"):
        table.add_column(name, overflow="fold", no_wrap=name == "state")
    for run_id, status in statuses.items():
        tries = str(len(status.tries) or "")
        table.add_row(*map(Text, (run_id, status.state, *_figures(progress(folder, status)), tries)))
    below = [f"{run_id}: {text}" for run_id, status in statuses.items() if (text := _details(status))]
    used = hours_used(folder, statuses)
    return statuses, Group(*map(Text, lines), table, *map(Text, below), *([Text(used)] if used else []))


def _details(status: RunStatus) -> str:
    job = f"job {status.job}" + (f" on {status.nodes}" if status.nodes else "") if status.job else ""
    return "; ".join(filter(None, (job, status.reason)))


def _figures(far: Progress) -> tuple[str, str, str, str]:
    return (
        "" if far.step is None else f"{far.step:,}" + (f"/{far.steps:,}" if far.steps else ""),
        "" if far.loss is None else f"{far.loss:.4g}",
        "" if far.images_per_second is None else f"{far.images_per_second:,.0f}",
        "" if far.to_go is None else duration(far.to_go),
    )


def as_json(folder: SweepFolder) -> tuple[dict[str, RunStatus], dict[str, Any]]:
    """The runs that the sweep has now, by id, and what is known of them, ready for JSON.

    Raises UserError if there is no sweep in ``folder``.
    """
    everything, answer = read_statuses(folder)
    statuses = present(folder, everything)
    counts = Counter(status.state for status in statuses.values())
    return statuses, {
        "folder": str(folder.path),
        "problem": answer.problem,
        "counts": {state: counts[state] for state in STATES},
        "runs": [_as_json(folder, status) for status in statuses.values()],
        "used": hours_used(folder, statuses) or None,
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
