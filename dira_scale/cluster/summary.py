"""The page of a sweep's results: for each phase, means over seeds."""

import re
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from dira_scale.verbs import VERBS

Row = Mapping[str, Any]


def markdown(name: str, about: Sequence[str], rows: Sequence[Row], varied: Sequence[str]) -> str:
    """A table for each phase.

    Args:
        about: lines above the tables.
        rows: figures of runs: ``phase, run, verb, metric, value`` and the keys that vary.
        varied: those keys; one whose last part is ``seed`` tells repetitions apart.
    """
    lines = [f"# {name}", "", *about, "± is the standard deviation (n - 1) over seeds.", ""]
    for phase in dict.fromkeys(row["phase"] for row in rows):
        selected = [row for row in rows if row["phase"] == phase and is_headline(row)]
        if selected:
            lines += [f"## {phase}", "", *_table(selected, varied), ""]
    return "\n".join(lines)


def is_headline(row: Row) -> bool:
    """Whether a row has a figure to compare runs by."""
    pattern = VERBS[row["verb"]].headline
    return bool(pattern and re.match(pattern, row["metric"]))


def _table(rows: Sequence[Row], varied: Sequence[str]) -> list[str]:
    keys = [key for key in varied if key.rpartition(".")[2] != "seed" and any(row[key] is not None for row in rows)]
    groups: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        groups.setdefault((*(str(row[key]) for key in keys), row["metric"]), []).append(row["value"])
    head = [*keys, "metric", "mean", "n"]
    lines = [[*group, _text(values), str(len(values))] for group, values in groups.items()]
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines)]


def _text(values: Sequence[float]) -> str:
    return f"{mean(values):.4g}" + (f" ± {stdev(values):.2g}" if len(values) > 1 else "")
