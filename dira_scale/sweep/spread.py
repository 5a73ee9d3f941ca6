"""What a sweep's finished runs come to: by phase, means over seeds, or what their command says of spread and
differences (``Command.compare``)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from pkgutil import resolve_name
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import yaml

from dira_scale.commands import COMMANDS
from dira_scale.errors import UserError
from dira_scale.metrics.figure import plain
from dira_scale.storage.atomic import write_json
from dira_scale.sweep.records import Run, SweepFolder

if TYPE_CHECKING:  # imports torch
    from dira_scale.evaluation.comparison import Compared

# What files that are missing or damaged raise.
UNREADABLE = OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, yaml.YAMLError, UserError
Row = Mapping[str, Any]


def compare_phases(folder: SweepFolder, runs: Sequence[Run]) -> tuple[dict[str, "Compared"], list[str]]:
    """By phase, and a line for each that cannot be compared."""
    compared, problems = {}, []
    for phase in dict.fromkeys(run.phase for run in runs if COMMANDS[run.command].compare):
        members = [run for run in runs if run.phase == phase]
        varied = [{key.removeprefix(f"{phase}."): value for key, value in run.varied.items()} for run in members]
        outputs = [folder.output(run) for run in members]
        try:
            compare = resolve_name(COMMANDS[members[0].command].compare)
            compared[phase] = compare(list(zip(varied, outputs, strict=True)))
        except UNREADABLE as error:
            problems.append(f"{phase}: its runs cannot be compared: {error}")
    return compared, problems


def write_spread(path: Path, compared: Mapping[str, "Compared"]) -> None:
    """Write ``spread.json`` in the sweep's folder ``path``."""
    write_json(path / "spread.json", {phase: plain(asdict(of)) for phase, of in compared.items()})


def markdown(
    name: str, about: Sequence[str], rows: Sequence[Row], varied: Sequence[str], compared: Mapping[str, "Compared"]
) -> str:
    """A table for each phase.

    Args:
        about: lines above the tables.
        rows: figures of runs: ``phase, run, command, metric, value`` and the keys that vary.
        varied: those keys; one whose last part is ``seed`` tells repetitions apart.
        compared: by phase, instead of means over seeds.
    """
    lines = [f"# {name}", "", *about, "± is the standard deviation (n - 1) over seeds.", ""]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        if phase in compared:
            lines += [f"## {phase}", "", *_compared(compared[phase])]
            continue
        if selected := [row for row in rows if row["phase"] == phase and _is_headline(row)]:
            lines += [f"## {phase}", "", *_table(selected, varied), ""]
    return "\n".join(lines)


def _compared(of: "Compared") -> list[str]:
    made = [_lines(cells) for _, cells in of.tables()]
    return [line for table in made for line in [*table, ""]] + [line for note in of.notes for line in (note, "")]


def _is_headline(row: Row) -> bool:
    """Whether a row has a figure to compare runs by."""
    pattern = COMMANDS[row["command"]].headline
    return bool(pattern and re.match(pattern, row["metric"]))


def _table(rows: Sequence[Row], varied: Sequence[str]) -> list[str]:
    keys = [key for key in varied if key.rpartition(".")[2] != "seed" and any(row[key] is not None for row in rows)]
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        groups.setdefault((*(str(row[key]) for key in keys), row["metric"]), []).append(row["value"])
    head = [*keys, "metric", "mean", "n"]
    return _lines([head, *([*group, _text(values), str(len(values))] for group, values in groups.items())])


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """A table, the header first, whose columns stand below each other in plain text too."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = [cells[0], ["-" * width for width in widths], *cells[1:]]
    return [f"| {' | '.join(map(str.ljust, row, widths))} |" for row in rows]


def _text(values: Sequence[float]) -> str:
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")
