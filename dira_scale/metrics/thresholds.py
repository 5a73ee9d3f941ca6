"""Where a probability becomes an answer: chosen on the validation split, handed to the test split."""

import numpy as np
import torch

ROUNDING = 1e-6  # torchmetrics' ROC curve is float32: without it a specificity of exactly 0.95 may miss 0.95


def choose_thresholds(targets: np.ndarray, scores: np.ndarray, specificity: float | None = None) -> np.ndarray:
    """A threshold for each label, [L]: a score from it on is a positive answer.

    Without ``specificity`` the one with the largest sensitivity + specificity - 1 (Youden 1950), else that of the
    largest sensitivity among those with at least this specificity; of equal ones the highest. inf: answer never. NaN:
    the label has no known positive, or no known negative.

    Args:
        targets: [N, L] of the validation split, 0 or 1, NaN = unknown.
        scores: [N, L], probabilities in [0, 1].
    """
    chosen = np.full(targets.shape[1], np.nan)
    for i, (target, score) in enumerate(zip(np.asarray(targets, float).T, np.asarray(scores, float).T, strict=True)):
        known = ~np.isnan(target)
        truth = target[known] == 1
        if truth.any() and not truth.all():
            if specificity is None:
                chosen[i] = youden(truth, score[known])
            else:
                chosen[i] = at_specificity(truth, score[known], specificity)[1]
    return chosen


def at_specificity(truth: np.ndarray, scores: np.ndarray, specificity: float) -> tuple[float, float]:
    """The largest sensitivity with at least ``specificity``, and its threshold; ``truth`` [n] bool has both classes."""
    from torchmetrics.functional.classification import binary_sensitivity_at_specificity

    target = torch.from_numpy(truth).long()
    sensitivity, threshold = binary_sensitivity_at_specificity(torch.from_numpy(scores), target, specificity - ROUNDING)
    # Its curve begins at (0, 0) with the threshold 1, which a score may reach.
    return float(sensitivity), float(threshold) if sensitivity > 0 else float("inf")


def youden(truth: np.ndarray, scores: np.ndarray) -> float:
    """The threshold with the largest sensitivity + specificity - 1; ``truth`` [n] bool has both classes."""
    from torchmetrics.functional.classification import binary_roc

    false_rate, sensitivity, thresholds = binary_roc(torch.from_numpy(scores), torch.from_numpy(truth).long())
    best = int((sensitivity - false_rate).argmax())
    return float(thresholds[best]) if best else float("inf")
