"""Significance tests between two settings: Student's t-test as in the papers, Welch's; Holm's correction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy.stats import ttest_ind

from dira_scale.dataset.metrics.figure import number
from dira_scale.dataset.metrics.statistics.spread import Result, values_by_run

Over = Literal["runs", "seeds"]


@dataclass(frozen=True)
class Comparison:
    """``first`` against ``second`` in one metric; ``difference`` = mean of first - mean of second.

    ``student``, ``welch``: two-sided p of the independent two-sample t-test with equal and with unequal variances.
    ``student_holm``, ``welch_holm``: the same, corrected for all ``comparisons`` that were made together. NaN where a
    side has fewer than two values. ``over``: what these are, ``n_first`` and ``n_second`` their numbers.
    """

    first: str
    second: str
    metric: str
    over: Over
    n_first: int
    n_second: int
    difference: float
    student: float
    welch: float
    student_holm: float = float("nan")
    welch_holm: float = float("nan")
    comparisons: int = 0

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> "Comparison":
        """The comparison of a row of ``spread.json``."""
        tests = ("difference", "student", "welch", "student_holm", "welch_holm")
        return cls(**{**row, **{name: number(row[name]) for name in tests}})


def compare(results: Sequence[Result], pairs: Sequence[tuple[str, str]], over: Over = "runs") -> list[Comparison]:
    """Each pair of settings in each metric that both have; Holm's correction is over all of them.

    Args:
        over: ``runs``: the values are pretraining runs, each the mean over its seeds: a difference holds for another
            pretraining, too. ``seeds``: fine-tuning seeds of one pretraining run, as in the papers: a difference holds
            for these weights only.

    Raises:
        ValueError: ``seeds`` with results of several pretraining runs, which are not independent; a run and seed twice.
    """
    values = dict[tuple[str, str], np.ndarray]()
    metrics = dict.fromkeys(result.metric for result in results)
    for setting, metric in ((setting, metric) for pair in pairs for setting in pair for metric in metrics):
        runs = values_by_run([r for r in results if (r.setting, r.metric) == (setting, metric)])
        if over == "seeds" and len(runs) > 1:
            raise ValueError(
                f"{setting}, {metric}: seeds of {len(runs)} pretraining runs; compare over runs, or within one"
            )
        means = np.array([of_seeds.mean() for of_seeds in runs.values()])
        values[setting, metric] = means if over == "runs" else next(iter(runs.values()), np.array([]))
    compared = []
    for first, second, metric in ((*pair, metric) for pair in pairs for metric in metrics):
        a, b = values[first, metric], values[second, metric]
        if len(a) and len(b):
            student, welch = _p(a, b, equal_variances=True), _p(a, b, equal_variances=False)
            difference = float(a.mean() - b.mean())
            compared.append(Comparison(first, second, metric, over, len(a), len(b), difference, student, welch))
    count = sum(not np.isnan(comparison.student) for comparison in compared)
    by_student, by_welch = (holm([getattr(c, test) for c in compared]) for test in ("student", "welch"))
    return [
        replace(comparison, student_holm=float(by_student[i]), welch_holm=float(by_welch[i]), comparisons=count)
        for i, comparison in enumerate(compared)
    ]


def comparison_table(comparisons: Sequence[Comparison]) -> list[list[str]]:
    """Cells, the header first: a row for each comparison, p of both tests with Holm's in brackets."""
    head = ["first - second", "metric", "n", "over", "difference", "p Student (Holm)", "p Welch (Holm)"]
    rows = [
        [
            f"{test.first} - {test.second}", test.metric, f"{test.n_first}, {test.n_second}", test.over,
            f"{test.difference:+.4f}", f"{test.student:.2g} ({test.student_holm:.2g})",
            f"{test.welch:.2g} ({test.welch_holm:.2g})",
        ]
        for test in comparisons
    ]  # fmt: skip
    return [head, *rows]


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction (Scandinavian Journal of Statistics 1979): adjusted p; NaN is no test and stays."""
    p = np.asarray(p_values, float)
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def _p(first: np.ndarray, second: np.ndarray, equal_variances: bool) -> float:
    if min(len(first), len(second)) < 2:
        return float("nan")
    with np.errstate(all="ignore"):  # no spread at all: NaN
        return float(ttest_ind(first, second, equal_var=equal_variances).pvalue)
