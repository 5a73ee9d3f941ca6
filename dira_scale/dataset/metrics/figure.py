"""A figure, from the metric that computes it to the tables that show it, with what it was computed from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from etils.epy import lazy_imports

with lazy_imports():
    import numpy as np


MEAN, ALL = "mean", "all classes"  # names of figures over all labels or classes
INFINITE = "infinity"  # in JSON
Key = tuple[str, str]  # metric and name


@dataclass(frozen=True)
class Figure:
    """``metric`` of the label or class ``name``, or of the ``MEAN`` over them.

    ``value``: NaN where there is nothing to compute it from. ``n``: of a label the rows that count, of a mean the
    labels that have a value; ``left_out``: the others. ``positives``: rows with the label, cases whose target has the
    class; None of a mean and of numbers. ``patients``: with a row that counts. ``convention``: of both-empty masks
    (``both_empty=one``), the threshold, the specificity: what else decides the value. ``both_empty``: of masks, the
    cases in which target and prediction are empty, whether or not they count; None of others and of a mean.
    ``interval``: its ends over patients (``statistics.bootstrap``); None: not computed, or too few patients.
    ``share``: it is a share of 1, or like one, and tables of sweeps and probes show it in percent.
    """

    metric: str
    name: str
    value: float
    n: int
    left_out: int
    patients: int
    positives: int | None = None
    convention: str = ""
    both_empty: int | None = None
    interval: tuple[float, float] | None = None
    share: bool = False

    @property
    def key(self) -> Key:
        return self.metric, self.name

    @property
    def title(self) -> str:
        """``AUROC mean``."""
        return f"{self.metric} {self.name}".strip()

    @property
    def overall(self) -> bool:
        """Return whether the figure is over all labels or classes."""
        return self.name in (MEAN, ALL)

    def text(self) -> str:
        """``0.912``."""
        return "–" if math.isnan(self.value) else INFINITE if math.isinf(self.value) else f"{self.value:.3f}"

    def in_words(self) -> str:
        """``AUROC 0.912``."""
        return f"{self.metric} {self.text()}"

    def with_interval(self) -> str:
        """``AUROC 0.912 (0.880 to 0.934)``; without an interval as :meth:`in_words`."""
        ends = f" ({self.interval[0]:.3f} to {self.interval[1]:.3f})" if self.interval else ""
        return f"{self.in_words()}{ends}"

    def as_json(self) -> dict[str, Any]:
        """A row of ``results.json``."""
        return {name: plain(value) for name, value in asdict(self).items()}

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> Figure:
        """The figure of a row that :meth:`as_json` has made."""
        written = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        value, interval = number(row["value"]), row.get("interval")
        read = {"value": value, "interval": None if interval is None else tuple(interval)}
        return cls(**written | read)


def plain(value: Any) -> Any:
    """``value`` ready for JSON, which has neither NaN nor infinity: None, and a word."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else INFINITE


def number(value: float | str | None) -> float:
    """The number that :func:`plain` has made ``value`` of."""
    return math.nan if value is None else math.inf if value == INFINITE else float(value)


def mean(figures: Sequence[Figure], patients: int) -> Figure:
    """The mean over labels of one metric: of those that have a value, with their number. ``patients``: in any of them.

    A convention that is not that of all figures, such as a threshold for each label, is left away.
    """
    values = np.array([figure.value for figure in figures])
    known = ~np.isnan(values)
    value = float(values[known].mean()) if known.any() else float("nan")
    metric, conventions = figures[0].metric, {figure.convention for figure in figures}
    convention = conventions.pop() if len(conventions) == 1 else ""
    counts = int(known.sum()), int((~known).sum()), patients
    return Figure(metric, MEAN, value, *counts, convention=convention, share=figures[0].share)
