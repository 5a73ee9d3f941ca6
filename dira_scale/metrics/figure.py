"""A figure of a table, with what it was computed from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MEAN = "mean"  # the name of a figure over all labels or classes


@dataclass(frozen=True)
class Figure:
    """``metric`` of the label or class ``name``, or of the ``MEAN`` over them.

    ``value``: NaN where there is nothing to compute it from. ``n``: of a label the rows that count, of a mean the
    labels that have a value; ``left_out``: the others. ``positives``: rows with the label, cases whose target has the
    class; None of a mean. ``patients``: with a row that counts. ``convention``: of both-empty masks
    (``both_empty=one``), the threshold, the specificity: what else decides the value. ``both_empty``: of masks, the
    cases in which target and prediction are empty, whether or not they count; None of others and of a mean.
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


def mean(figures: Sequence[Figure], patients: int) -> Figure:
    """The mean over labels of one metric: of those that have a value, with their number. ``patients``: in any of them.

    A convention that is not that of all figures, such as a threshold for each label, is left away.
    """
    values = np.array([figure.value for figure in figures])
    known = ~np.isnan(values)
    value = float(values[known].mean()) if known.any() else float("nan")
    metric, conventions = figures[0].metric, {figure.convention for figure in figures}
    convention = conventions.pop() if len(conventions) == 1 else ""
    return Figure(metric, MEAN, value, int(known.sum()), int((~known).sum()), patients, None, convention)
