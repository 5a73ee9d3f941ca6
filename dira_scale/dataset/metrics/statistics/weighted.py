"""Metrics of weighted rows, for many sets of weights at once: what a bootstrap computes thousands of times.

Each function returns a statistic: row weights [b, N] to its values [b], NaN where the weighted rows have none. With all
weights 1 it is the metric itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.figure import Key

with lazy_imports():
    import numpy as np


ROUNDING = 1e-6  # a specificity of exactly 0.9 is one
EVENTS = 256  # whose pairs are counted at once
Statistic: TypeAlias = "Callable[[np.ndarray], np.ndarray]"


@dataclass(frozen=True)
class Statistics:
    """Each figure of a split's cases as a function of row weights, by metric and name, for the bootstrap over patients
    and for comparisons of networks on the same cases. ``keys``, ``patients``: [N], of the rows that are weighted."""

    of: Mapping[Key, Statistic]
    keys: Sequence[str]
    patients: Sequence[str]


def unweighted(statistic: Statistic, rows: int) -> float:
    """The metric itself: of all ``rows`` once."""
    return float(statistic(np.ones((1, rows)))[0])


def weighted_mean(values: np.ndarray) -> Statistic:
    """The mean of ``values`` [N], such as each case's Dice; NaN does not count."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    return lambda weights: _ratio(weights @ filled, weights @ known.astype(float))


def weighted_auroc(targets: np.ndarray, scores: np.ndarray) -> Statistic:
    """The area under the ROC curve; ``targets``: [N], 0, 1 or NaN (does not count); ``scores``: [N]."""
    order, first, positive = _ranked(targets, scores)

    def area(weights: np.ndarray) -> np.ndarray:
        positives, negatives = _by_score(weights[:, order], first, positive)
        below = np.cumsum(negatives, 1) - negatives / 2  # a tie is half right
        return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))

    return area


def weighted_average_precision(targets: np.ndarray, scores: np.ndarray) -> Statistic:
    """The average precision: the mean over positives of the precision at their score; arguments as above."""
    order, first, positive = _ranked(targets, -np.asarray(scores, float))

    def precision(weights: np.ndarray) -> np.ndarray:
        positives, negatives = _by_score(weights[:, order], first, positive)
        hits, alarms = np.cumsum(positives, 1), np.cumsum(negatives, 1)
        at_score = np.where(positives > 0, positives * hits / np.maximum(hits + alarms, 1e-300), 0.0)
        return np.where(alarms[:, -1] > 0, _ratio(at_score.sum(1), hits[:, -1]), np.nan)

    return precision


def weighted_ratio(above: np.ndarray, below: np.ndarray) -> Statistic:
    """The sum of ``above`` [N] over that of ``below`` [N], as a pooled Dice."""
    return lambda weights: _ratio(weights @ above, weights @ below)


def weighted_sensitivity(targets: np.ndarray, scores: np.ndarray, specificity: float) -> Statistic:
    """The largest sensitivity with at least this specificity; arguments as of the AUROC."""
    order, first, positive = _ranked(targets, scores)

    def sensitivity(weights: np.ndarray) -> np.ndarray:
        positives, negatives = _by_score(weights[:, order], first, positive)
        every, none = positives.sum(1, keepdims=True), negatives.sum(1, keepdims=True)
        found = every - np.cumsum(positives, 1) + positives  # from each score on
        rejected = _ratio(np.cumsum(negatives, 1) - negatives, none)
        best = np.where(rejected >= specificity - ROUNDING, _ratio(found, every), 0.0).max(1)
        return np.where((every[:, 0] > 0) & (none[:, 0] > 0), best, np.nan)

    return sensitivity


def weighted_detected(
    scores: np.ndarray, hits: np.ndarray, of: np.ndarray, lesions: np.ndarray, rate: float
) -> Statistic:
    """The sensitivity at a ``rate`` of false positives a case: a free-response ROC curve, linear between its points.

    Weights are of N cases. ``scores``: [M], of false positives, and of each lesion its highest (``hits``, bool [M]),
    0 where it is missed; ``of``: int [M], their cases; ``lesions``: [N], how many each case has.
    """
    found = np.flatnonzero(scores > 0)
    order = found[np.argsort(-scores[found], kind="stable")]
    first = np.flatnonzero(np.diff(scores[order], prepend=np.inf))

    def sensitivity(weights: np.ndarray) -> np.ndarray:
        true, false = _by_score(weights[:, of[order]], first, hits[order])
        true, false = (np.cumsum(np.pad(each, ((0, 0), (1, 0))), 1) for each in (true, false))
        rates = false / np.maximum(weights.sum(1, keepdims=True), 1e-300)
        at = [np.interp(rate, each, hit) for each, hit in zip(rates, true, strict=True)]
        return _ratio(np.array(at), weights @ lesions)

    return sensitivity


def weighted_calibration(targets: np.ndarray, scores: np.ndarray, bins: int) -> Statistic:
    """The expected calibration error; arguments as of the AUROC."""
    known = ~np.isnan(targets)
    at = np.searchsorted(np.linspace(0, 1, bins + 1), scores[known], "right") - 1  # 1 has its own
    in_bin = np.zeros((len(at), bins + 1))
    in_bin[np.arange(len(at)), at] = (targets[known] - scores[known]).astype(float)
    return lambda weights: _ratio(np.abs(weights[:, known] @ in_bin).sum(1), weights[:, known].sum(1))


def weighted_r2(targets: np.ndarray, predictions: np.ndarray) -> Statistic:
    """1 - squared errors / squared differences from the mean; ``targets`` [N]: NaN does not count."""
    known = ~np.isnan(targets)
    y = targets[known] - targets[known].mean() if known.any() else targets[known]  # near 0: differences keep digits
    error = (predictions[known] - targets[known]) ** 2

    def explained(weights: np.ndarray) -> np.ndarray:
        w = weights[:, known].astype(float)
        return 1 - _ratio(w @ error, _squares(w, y, y))

    return explained


def weighted_correlation(targets: np.ndarray, predictions: np.ndarray) -> Statistic:
    """Pearson's r; ``targets`` [N]: NaN does not count."""
    known = ~np.isnan(targets)
    x, y = (v[known] - v[known].mean() if known.any() else v[known] for v in (predictions, targets))

    def correlation(weights: np.ndarray) -> np.ndarray:
        w = weights[:, known].astype(float)
        return _ratio(_squares(w, x, y), np.sqrt(_squares(w, x, x).clip(0) * _squares(w, y, y).clip(0)))

    return correlation


def weighted_kappa(targets: np.ndarray, predictions: np.ndarray) -> Statistic:
    """Cohen's kappa with quadratic weights; ``targets`` [N]: NaN does not count. NaN where all are of one grade.

    The squared errors, over those of predictions and targets that are paired by chance: their variances and the square
    of the difference of their means.
    """
    known = ~np.isnan(targets)
    y, x = targets[known], predictions[known]

    def kappa(weights: np.ndarray) -> np.ndarray:
        w = weights[:, known].astype(float)
        total = np.maximum(w.sum(1), 1e-300)
        by_chance = _squares(w, x, x) + _squares(w, y, y) + (w @ (x - y)) ** 2 / total
        return 1 - _ratio(w @ (x - y) ** 2, by_chance)

    return kappa


def weighted_concordance(times: np.ndarray, events: np.ndarray, risks: np.ndarray) -> Statistic:
    """Harrell's concordance, as ``metrics.survival`` counts pairs; [N] each, a NaN does not count."""
    known = ~(np.isnan(times) | np.isnan(events))
    t, e, r = (np.asarray(each)[known] for each in (times, events, risks))
    parts = [part for part in np.split(np.flatnonzero(e == 1), range(EVENTS, len(t), EVENTS)) if len(part)]

    def concordance(weights: np.ndarray) -> np.ndarray:
        w = weights[:, known].astype(float)
        right, pairs = np.zeros(len(w)), np.zeros(len(w))
        for part in parts:
            longer = (t > t[part, None]) | ((t == t[part, None]) & (e == 0))  # [events, all]
            lower = np.where(longer, (r < r[part, None]) + (r == r[part, None]) / 2, 0)
            right += (w[:, part] * (w @ lower.T)).sum(1)
            pairs += (w[:, part] * (w @ longer.T)).sum(1)
        return _ratio(right, pairs)

    return concordance


def with_both(targets: np.ndarray, statistic: Statistic) -> Statistic:
    """``statistic``, NaN where the weighted rows are not both of positives and negatives."""
    positive, negative = (targets == 1).astype(float), (targets == 0).astype(float)
    return lambda weights: np.where((weights @ positive > 0) & (weights @ negative > 0), statistic(weights), np.nan)


def average(statistics: Sequence[Statistic]) -> Statistic:
    """The mean over several statistics of the same rows, such as labels, or runs; where one is NaN, of the others."""

    def over_all(weights: np.ndarray) -> np.ndarray:
        values = np.stack([statistic(weights) for statistic in statistics])
        return _ratio(np.nansum(values, 0), (~np.isnan(values)).sum(0))

    return over_all


def _squares(weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The weighted sum of products of differences from the weighted means, [b]; rounding errors are 0."""
    total = np.maximum(weights.sum(1), 1e-300)
    products = weights @ (x * y)
    result = products - (weights @ x) * (weights @ y) / total
    return np.asarray(np.where(np.abs(result) <= 1e-12 * np.abs(weights @ np.abs(x * y)), 0.0, result))


def _ranked(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The known rows from the lowest score on, where each distinct score begins among them, and which are positive."""
    targets, scores = np.asarray(targets, float), np.asarray(scores, float)
    known = np.flatnonzero(~np.isnan(targets))
    order = known[np.argsort(scores[known], kind="stable")]
    first = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    return order, first, targets[order] == 1


def _by_score(weights: np.ndarray, first: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight of positives and of negatives at each distinct score, both [b, scores]."""
    if not len(first):
        return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    positives = np.add.reduceat(weights * positive, first, axis=1, dtype=float)
    return positives, np.add.reduceat(weights * ~positive, first, axis=1, dtype=float)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
