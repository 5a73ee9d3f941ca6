"""Temperature scaling (Guo et al., ICML 2017, sec. 4.2): a number that divides logits, fitted on the validation split.

It changes how sure the answers are, not their order: areas under curves stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.multiclass import UNKNOWN

with lazy_imports():
    import numpy as np
    from scipy import optimize, special

CLOSEST = 2.0**-24  # to 0 and 1: a float32 probability nearer to 1 is 1, whose logit is infinite
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
            temperatures[i] = _smallest(lambda scale, signed=signed: -special.log_expit(scale * signed).mean())  # type: ignore[misc]
    return temperatures


def class_temperature(targets: np.ndarray, logits: np.ndarray) -> float:
    """The temperature with the smallest cross-entropy of ``softmax(logits / temperature)``.

    1 where fewer than two classes are known. ``targets``: [N] classes from 0, -100 = unknown; ``logits``: [N, C].
    """
    known = targets != UNKNOWN
    truth, logits = targets[known], np.asarray(logits, float)[known]
    if len(np.unique(truth)) < 2:
        return 1.0
    return _smallest(lambda scale: -special.log_softmax(scale * logits, axis=1)[np.arange(len(truth)), truth].mean())


def _smallest(loss: Callable[[float], float]) -> float:
    """The temperature whose inverse has the smallest loss, which is convex in it: it has one minimum."""
    bounds = np.log(SMALLEST), np.log(LARGEST)
    found = optimize.minimize_scalar(
        lambda log: loss(np.exp(-log)), bounds=bounds, method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def scaled(scores: np.ndarray, temperature: Sequence[float], exclusive: bool) -> np.ndarray:
    """Return probabilities [N, L], whose logits are divided by the ``temperature`` [L] of each label.

    ``exclusive``: they are of classes.
    """
    divided = logits_of(scores, exclusive) / np.asarray(temperature, float)
    return np.asarray(special.softmax(divided, axis=1) if exclusive else special.expit(divided))


def logits_of(scores: np.ndarray, exclusive: bool) -> np.ndarray:
    """Return the logits of probabilities [N, L]; of classes up to a constant of each row, which the softmax does not
    see."""
    if not exclusive:
        return np.asarray(special.logit(np.clip(np.asarray(scores, float), CLOSEST, 1 - CLOSEST)))
    return np.asarray(special.log_softmax(np.log(np.maximum(np.asarray(scores, float), CLOSEST)), axis=1))
