"""One scorer for the masks of both sides: whole volumes, on the grid on which they are stored."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np
from scipy import ndimage

TOUCHING = np.ones((3, 3, 3))  # 26 neighbours


def dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of bool [*sides], not both empty."""
    return float(2 * (prediction & reference).sum() / (prediction.sum() + reference.sum()))


def findings(prediction: np.ndarray, reference: np.ndarray) -> tuple[int, int, int]:
    """Return the findings of a scan, those of them that were found, and false positives. Of bool [*sides].

    As ISLES 2022 counts them (its ``compute_lesion_f1_score``): a finding is a connected component, and found if one of
    its voxels is predicted; a predicted component without a voxel of the reference is a false positive.
    """
    parts, present = ndimage.label(reference, TOUCHING)
    answers, answered = ndimage.label(prediction, TOUCHING)
    found, right = (len(np.unique(each[prediction & reference])) for each in (parts, answers))
    return present, found, answered - right


def score(
    cases: Sequence[tuple[np.ndarray, np.ndarray]], classes: dict[str, int], counted: Sequence[str]
) -> dict[str, float | None]:
    """Figures of predicted and true masks, whose values are those of ``classes``; None where there is nothing to score.

    Of each class the mean Dice over the volumes that have it; of those ``counted`` also the share of all volumes'
    findings that were found, and false positives a scan.
    """
    scores: dict[str, float | None] = {}
    for name, value in classes.items():
        pairs = [(prediction == value, reference == value) for prediction, reference in cases]
        known = [dice(*pair) for pair in pairs if pair[1].any()]
        scores[f"Dice, {name}"] = fmean(known) if known else None
        if name in counted:
            present, found, false = np.sum([findings(*pair) for pair in pairs], 0)
            scores[f"{name} found"] = float(found / present) if present else None
            scores[f"{name}, false a scan"] = float(false / len(pairs))
    return scores
