"""Temperature scaling (Guo et al., ICML 2017, sec. 4.2): a number that divides logits, fitted on the validation split.

It changes how sure the answers are, not their order: areas under curves stay as they are.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_expit, log_softmax

from dira_scale.metrics.multiclass import UNKNOWN

SMALLEST, LARGEST = 1e-2, 1e2  # scores that separate the classes without an error would have a temperature of 0


def label_temperatures(targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """For each label the temperature with the smallest cross-entropy of ``sigmoid(logits / temperature)``, [L].

    1, which changes nothing, for a label without a known positive or without a known negative.

    Args:
        targets: [N, L] of the validation split, 0 or 1, NaN = unknown.
        logits: [N, L].
    """
    temperatures = np.ones(targets.shape[1])
    for i, (target, logit) in enumerate(zip(np.asarray(targets, float).T, np.asarray(logits, float).T, strict=True)):
        known = ~np.isnan(target)
        signed = np.where(target[known] == 1, logit[known], -logit[known])
        if len(np.unique(target[known])) == 2:
            temperatures[i] = _smallest(lambda scale, signed=signed: -log_expit(scale * signed).mean())  # type: ignore[misc]
    return temperatures


def class_temperature(targets: np.ndarray, logits: np.ndarray) -> float:
    """The temperature with the smallest cross-entropy of ``softmax(logits / temperature)``.

    1 where fewer than two classes are known. ``targets``: [N] classes from 0, -100 = unknown; ``logits``: [N, C].
    """
    known = targets != UNKNOWN
    truth, logits = targets[known], np.asarray(logits, float)[known]
    if len(np.unique(truth)) < 2:
        return 1.0
    return _smallest(lambda scale: -log_softmax(scale * logits, axis=1)[np.arange(len(truth)), truth].mean())


def _smallest(loss: Callable[[float], float]) -> float:
    """The temperature whose inverse has the smallest loss, which is convex in it: it has one minimum."""
    bounds = np.log(SMALLEST), np.log(LARGEST)
    found = minimize_scalar(lambda log: loss(np.exp(-log)), bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))
