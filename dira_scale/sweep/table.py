"""The status of a sweep as a table, with counts and a line for each run, and as JSON for programs."""

import time
from collections import Counter
from contextlib import suppress
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dira_scale.base.errors import duration
from dira_scale.base.machine.console import Console
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.state import STATES
from dira_scale.sweep.status import AT_WORK, RunStatus, hours_used, present, progress, read_statuses


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
    below = []
    for run_id, status in statuses.items():
        reached = progress(folder, status)
        cells = (
            run_id,
            status.state,
            "" if reached.step is None else f"{reached.step:,}" + (f"/{reached.steps:,}" if reached.steps else ""),
            "" if reached.loss is None else f"{reached.loss:.4g}",
            "" if reached.images_per_second is None else f"{reached.images_per_second:,.0f}",
            "" if reached.to_go is None else duration(reached.to_go),
            str(len(status.tries) or ""),
        )
        table.add_row(*map(Text, cells))
        job = f"job {status.job}" + (f" on {status.nodes}" if status.nodes else "") if status.job else ""
        if job or status.reason:
            below.append(f"{run_id}: {'; '.join(filter(None, (job, status.reason)))}")
    used = hours_used(folder, statuses)
    return statuses, Group(*map(Text, lines), table, *map(Text, below), *([Text(used)] if used else []))


def as_json(folder: SweepFolder) -> tuple[dict[str, RunStatus], dict[str, Any]]:
    """The runs that the sweep has now, by id, and what is known of them, ready for JSON.

    Raises UserError if there is no sweep in ``folder``.
    """
    everything, answer = read_statuses(folder)
    statuses = present(folder, everything)
    counts, rows = Counter(status.state for status in statuses.values()), []
    for status in statuses.values():
        reached = progress(folder, status)
        rows.append({
            "phase": status.run.phase,
            "name": status.run.name,
            "state": status.state,
            "reason": status.reason,
            "job": status.job or None,
            "try": len(status.tries) or None,
            "node": status.nodes or None,
            "step": reached.step,
            "steps": reached.steps,
            "loss": reached.loss,
            "images_per_second": reached.images_per_second,
            "seconds_to_go": reached.to_go,
            "folder": str(folder.path / status.run.id),
        })  # fmt: skip
    return statuses, {
        "folder": str(folder.path),
        "problem": answer.problem,
        "counts": {state: counts[state] for state in STATES},
        "runs": rows,
        "used": hours_used(folder, statuses) or None,
    }
