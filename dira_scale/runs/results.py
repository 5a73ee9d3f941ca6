"""``results.json`` of a run: what its best checkpoint reached on the validation and test splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from dira_scale.errors import UserError
from dira_scale.runs.files import read_json
from dira_scale.runs.shape import STEP, Within

FILE = "results.json"
SHOWN = 3  # figures in a line
Numbers = dict[str, float | str | None]  # by label; a word stands for infinity


class Figure(TypedDict):
    """A row of a split's figures, as far as pages and lines show it."""

    metric: str
    name: str
    value: float | str | None
    patients: int
    positives: int | None
    convention: str
    interval: NotRequired[Annotated[list[float], Within(2, 2)] | None]


class Interval(TypedDict):
    """How ends of intervals were computed."""

    level: float


class Judged(TypedDict, total=False):
    """What was chosen and computed of a checkpoint's probabilities."""

    thresholds: Numbers | None
    figures: dict[str, list[Figure]]


class Results(Judged, total=False):
    """``results.json``. What is not named here is kept as it is."""

    step: STEP
    splits: dict[str, str]
    interval: Interval
    never_answered: dict[str, list[str]]
    temperatures: Numbers | None
    calibrated: Judged


def read_results(folder: Path) -> dict[str, Any]:
    """As the run in ``folder`` wrote it; empty before that. Raises UserError naming the key of what it cannot be."""
    empty: dict[str, Any] = {}
    content = read_json(folder / FILE, empty, Results)
    named = {f"splits.{split}" for split in content.get("splits", ())} | content.keys()
    shown = {f"splits.{split}" for split in content.get("figures", ())} | ({"step", "figures"} if content else set())
    if missing := sorted(shown - named):
        raise UserError(f"{folder / FILE} is damaged ({missing[0]} is missing): restore the file")
    return content


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
