"""The page of a sweep's results: for each phase, means over seeds."""

import re
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from dira_scale.commands import COMMANDS

if TYPE_CHECKING:  # imports torch
    from dira_scale.evaluation.comparison import Compared

Row = Mapping[str, Any]


def markdown(
    name: str, about: Sequence[str], rows: Sequence[Row], varied: Sequence[str], compared: Mapping[str, "Compared"]
) -> str:
    """A table for each phase.

    Args:
        about: lines above the tables.
        rows: figures of runs: ``phase, run, verb, metric, value`` and the keys that vary.
        varied: those keys; one whose last part is ``seed`` tells repetitions apart.
        compared: by phase, instead of means over seeds.
    """
    lines = [f"# {name}", "", *about, "± is the standard deviation (n - 1) over seeds.", ""]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        if phase in compared:
            lines += [f"## {phase}", "", *_compared(compared[phase])]
            continue
        selected = [row for row in rows if row["phase"] == phase and is_headline(row)]
        if selected:
            lines += [f"## {phase}", "", *_table(selected, varied), ""]
    return "\n".join(lines)


def _compared(of: "Compared") -> list[str]:
    made = [_lines(cells) for _, cells in of.tables()]
    return [line for table in made for line in [*table, ""]] + [line for note in of.notes for line in (note, "")]


def is_headline(row: Row) -> bool:
    """Whether a row has a figure to compare runs by."""
    pattern = COMMANDS[row["verb"]].headline
    return bool(pattern and re.match(pattern, row["metric"]))


def _table(rows: Sequence[Row], varied: Sequence[str]) -> list[str]:
    keys = [key for key in varied if key.rpartition(".")[2] != "seed" and any(row[key] is not None for row in rows)]
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        groups.setdefault((*(str(row[key]) for key in keys), row["metric"]), []).append(row["value"])
    head = [*keys, "metric", "mean", "n"]
    return _lines([head, *([*group, _text(values), str(len(values))] for group, values in groups.items())])


def _lines(cells: Sequence[Sequence[str]]) -> list[str]:
    """A table, the header first."""
    return [f"| {' | '.join(line)} |" for line in (cells[0], ["---"] * len(cells[0]), *cells[1:])]


def _text(values: Sequence[float]) -> str:
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")
