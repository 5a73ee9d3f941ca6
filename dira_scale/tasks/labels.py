"""Labels of whole images: several that may occur together (multi-label), or one of several classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import expit, log_softmax, logit, softmax
from torch import Tensor

from dira_scale.data.constants import constant
from dira_scale.data.labels import Labels, certain, class_numbers
from dira_scale.engine.task import Best
from dira_scale.metrics.cases import LabelCase, label_arrays
from dira_scale.metrics.classification import classification
from dira_scale.metrics.figure import ALL, MEAN, Figure, Key
from dira_scale.metrics.multiclass import multiclass
from dira_scale.metrics.statistics.of_cases import Statistics, of_labels
from dira_scale.metrics.temperature import class_temperature, label_temperatures
from dira_scale.metrics.thresholds import choose_thresholds
from dira_scale.runs.description import Metric, Output, Term
from dira_scale.tasks.supervision import Chosen, ImageScore, ImageSupervision, Predictions, Shared, image_rows
from dira_scale.training.inputs import Inputs

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


CE = "ce"  # a loss term
AUROC, ACCURACY = "auroc", "accuracy"


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    exclusive: bool,
    shared: Shared,
    weights: Sequence[float] | None = None,
    focal: float = 0.0,
) -> Tensor:
    """The mean over what is known.

    Args:
        logits: [b, L].
        targets: [b, L] of 0, 1 and NaN. ``exclusive``: of a row one is 1, and the mean is over rows; else over labels.
        weights: [L], of classes, whose mean is weighted, or of the positives of labels.
        focal: the exponent of 1 - p, p being the probability of what is true (Lin et al., ICCV 2017).
    """
    logits = logits.float()
    scale = None if weights is None else constant(tuple(weights), logits)
    if exclusive:
        numbers = class_numbers(targets)
        losses, known = F.cross_entropy(logits, numbers, reduction="none"), (numbers >= 0).float()
        weighted = known if scale is None else known * scale[numbers.clamp(min=0)]
        count = weighted
    else:
        known, truth = (~targets.isnan()).float(), targets.nan_to_num().float()
        losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        weighted = known if scale is None else known * (1 + truth * (scale - 1))
        count = known
    if focal:
        losses = losses * (1 - torch.exp(-losses)) ** focal
    total, counted = shared(torch.stack([(losses * weighted).sum(), count.sum()]))
    return total / counted.clamp(min=torch.finfo(torch.float32).tiny)


def balance(targets: Tensor, exclusive: bool) -> tuple[float, ...]:
    """The weights with which both answers to each label count equally, or all classes do.

    Of labels the weight of a positive, a negative having 1: negatives / positives. Of classes N / (C x the class's).
    """
    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
    weights = positives.sum() / (len(positives) * positives) if exclusive else negatives / positives
    return tuple(weights.tolist())


@dataclass(frozen=True)
class Classification(ImageSupervision):
    """Targets: float32 [b, L] of 0, 1 and NaN; smoothed ones between, which losses count and scores do not.

    Attributes:
        scored: the labels over which means are; None: all.
    """

    labels: Labels
    weights: tuple[float, ...] | None = None
    focal: float = 0.0
    scored: tuple[str, ...] | None = None
    learned, pooled, calibrates = "labels", True, True
    loss_terms: ClassVar[Mapping[str, Term]] = {CE: Term("Cross-entropy", "cross-entropy of what is known")}

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def output(self) -> Output:
        return Output("softmax" if self.labels.exclusive else "sigmoid", names=self.outputs)

    @property
    def best(self) -> Best:
        return Best(ACCURACY if self.labels.exclusive else AUROC, "max")

    @property
    def metrics(self) -> Mapping[str, Metric]:
        over = f"{', '.join(self.scored)}, where" if self.scored else "the labels that have"
        mean = {AUROC: Metric(f"AUROC, mean over {over} both classes", "max")}
        return mean | ({ACCURACY: Metric("Accuracy", "max")} if self.labels.exclusive else {})

    @property
    def compared(self) -> Sequence[Key]:
        return [("AUROC", MEAN), *[("accuracy", ALL)] * self.labels.exclusive]

    def terms(self, logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
        return {CE: cross_entropy(logits, targets, self.labels.exclusive, shared, self.weights, self.focal)}

    def predicted(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits.float(), 1) if self.labels.exclusive else torch.sigmoid(logits.float())

    def score(self) -> ImageScore:
        return ImageScore(self, self._validated, certain)

    def _validated(self, targets: np.ndarray, scores: np.ndarray, index: np.ndarray) -> dict[str, float]:
        """AUROC of each label and their mean, accuracy of classes."""
        if self.labels.exclusive:
            figures = multiclass(class_numbers(torch.from_numpy(targets)).numpy(), scores, self.outputs, index)
        else:
            figures = classification(targets, scores, self.outputs, index, scored=self.scored)
        areas = [figure for figure in figures if figure.metric == "AUROC"]
        values = {AUROC if f.name == MEAN else f"{AUROC}/{f.name}": f.value for f in areas}
        right = [(ACCURACY, figure.value) for figure in figures if figure.key == ("accuracy", ALL)]
        return values | dict(right)

    def unscored(self, data: Inputs, split: str, samples: int | None = None) -> str:
        labels = self.labels
        if labels.exclusive:
            return ""
        targets = data.targets(split)[:samples, [name in (self.scored or labels.names) for name in labels.names]]
        if ((targets == 0).any(0) & (targets == 1).any(0)).any():
            return ""
        which = f"none of {', '.join(self.scored)}" if self.scored else "no label"
        return f"{which} has a positive and a negative among its {len(targets)} samples"

    def cases(self, predictions: Predictions) -> list[LabelCase]:
        return image_rows(LabelCase, predictions, self.outputs, lambda batch: certain(self.targets(batch)))

    def chosen(self, cases: Sequence[LabelCase]) -> Chosen:
        if self.labels.exclusive:
            return Chosen()
        targets, scores, names, _ = label_arrays(cases)
        return Chosen(dict(zip(names, choose_thresholds(targets, scores).tolist(), strict=True)))

    def temperatures(self, cases: Sequence[LabelCase]) -> dict[str, float]:
        return temperatures(cases, self.labels.exclusive)

    def calibrated(self, cases: Sequence[LabelCase], temperatures: Mapping[str, float]) -> list[LabelCase]:
        return calibrated(cases, temperatures, self.labels.exclusive)

    def figures(self, cases: Sequence[LabelCase], chosen: Chosen) -> list[Figure]:
        targets, scores, names, patients = label_arrays(cases)
        if self.labels.exclusive:
            return multiclass(class_numbers(torch.from_numpy(targets)).numpy(), scores, names, patients)
        thresholds = None if chosen.thresholds is None else [chosen.thresholds[name] for name in names]
        return classification(targets, scores, names, patients, thresholds, scored=self.scored)

    def statistics(self, cases: Sequence[LabelCase], chosen: Chosen) -> Statistics:
        return of_labels(cases, self.labels.exclusive, chosen.thresholds, self.scored)

    def never_answered(self, cases: Sequence[LabelCase]) -> list[str]:
        if not self.labels.exclusive:
            return []
        targets, scores, names, _ = label_arrays(cases)
        answered = {*scores.argmax(1).tolist()} if len(scores) else set()
        return [name for i, name in enumerate(names) if (targets[:, i] == 1).any() and i not in answered]

    def answers(self, predicted: Tensor, chosen: Chosen) -> np.ndarray:
        """Probabilities, then with temperatures the calibrated ones."""
        values = predicted.double().numpy()
        if chosen.temperatures is None:
            return values
        by_label = [chosen.temperatures[name] for name in self.outputs]
        return np.concatenate((values, scaled(values, by_label, self.labels.exclusive)), 1)

    def columns(self, chosen: Chosen) -> tuple[str, ...]:
        both = () if chosen.temperatures is None else tuple(f"{name} calibrated" for name in self.outputs)
        return (*self.outputs, *both)
