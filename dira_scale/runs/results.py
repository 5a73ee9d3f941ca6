"""``results.json`` of a run: what its best checkpoint reached on the validation and test splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dira_scale.runs.files import read_json

FILE = "results.json"
SHOWN = 3  # figures in a line


def read_results(folder: Path) -> dict[str, Any]:
    """As the run in ``folder`` wrote it; empty before that."""
    empty: dict[str, Any] = {}
    return read_json(folder / FILE, empty)


def overall(figures: Sequence[Mapping[str, Any]], best: str) -> list[Mapping[str, Any]]:
    """Of a split's ``figures`` the first that are over all labels or classes, ``best`` before the others.

    ``best``: the metric by which checkpoints are compared, as a description names it.
    """
    rows = {row["metric"]: row for row in figures if row["positives"] is None and row["value"] is not None}
    plain = [row for metric, row in rows.items() if " in cases " not in metric]
    return sorted(plain, key=lambda row: row["metric"].casefold() != best.casefold())[:SHOWN]


def in_words(row: Mapping[str, Any]) -> str:
    """Metric and value of a figure."""
    value = row["value"]
    return f"{row['metric']} {value if isinstance(value, str) else format(value, '.3f')}"
