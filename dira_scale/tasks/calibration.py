"""Temperature scaling of label probabilities: fitted on the validation split's cases, applied to any."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.special import expit, log_softmax, logit, softmax

from dira_scale.data.labels import class_numbers
from dira_scale.metrics.cases import LabelCase, label_arrays
from dira_scale.metrics.temperature import class_temperature, label_temperatures

CLOSEST = 2.0**-24  # to 0 and 1: a float32 probability nearer to 1 is 1, whose logit is infinite


def temperatures(cases: Sequence[LabelCase], exclusive: bool) -> dict[str, float]:
    """By label; of classes (``exclusive``) the same for all. ``cases``: of the validation split."""
    targets, scores, names, _ = label_arrays(cases)
    if not exclusive:
        return dict(zip(names, label_temperatures(targets, logits(scores, exclusive)).tolist(), strict=True))
    classes = class_numbers(torch.from_numpy(targets)).numpy()
    return dict.fromkeys(names, class_temperature(classes, logits(scores, exclusive)))


def calibrated(cases: Sequence[LabelCase], by_label: Mapping[str, float], exclusive: bool) -> list[LabelCase]:
    """Return the cases, their probabilities with the temperatures."""
    _, scores, names, _ = label_arrays(cases)
    values = scaled(scores, [by_label[name] for name in names], exclusive).ravel().tolist()
    return [replace(case, probability=value) for case, value in zip(cases, values, strict=True)]


def scaled(scores: np.ndarray, temperature: Sequence[float], exclusive: bool) -> np.ndarray:
    """Probabilities [N, L], whose logits are divided by the ``temperature`` [L] of each label."""
    divided = logits(scores, exclusive) / np.asarray(temperature, float)
    return np.asarray(softmax(divided, axis=1) if exclusive else expit(divided))


def logits(scores: np.ndarray, exclusive: bool) -> np.ndarray:
    """Return the logits of probabilities [N, L]; of classes up to a constant of each row, which the softmax does not
    see."""
    if not exclusive:
        return np.asarray(logit(np.clip(np.asarray(scores, float), CLOSEST, 1 - CLOSEST)))
    return np.asarray(log_softmax(np.log(np.maximum(np.asarray(scores, float), CLOSEST)), axis=1))
