"""Thresholds from which a probability is a positive answer: chosen on the validation split, used on the test split."""

from __future__ import annotations

from etils.epy import lazy_imports

with lazy_imports():
    import numpy as np
    from sklearn import metrics


def choose_thresholds(targets: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """A threshold for each label, [L]: a score from it on is a positive answer.

    The one with the largest sensitivity + specificity - 1 (Youden 1950), of equal ones the highest. inf: answer never.
    NaN: the label has no known positive, or no known negative.

    Args:
        targets: [N, L] of the validation split, 0 or 1, NaN = unknown.
        scores: [N, L], probabilities in [0, 1].
    """
    chosen = np.full(targets.shape[1], np.nan)
    for i, (target, score) in enumerate(zip(np.asarray(targets, float).T, np.asarray(scores, float).T, strict=True)):
        known = ~np.isnan(target)
        truth = target[known] == 1
        if truth.any() and not truth.all():
            false_rate, sensitivity, thresholds = metrics.roc_curve(truth, score[known], drop_intermediate=False)
            best = np.round(sensitivity - false_rate, 9).argmax()  # equal ones may differ by their rounding
            chosen[i] = thresholds[best]
    return chosen
