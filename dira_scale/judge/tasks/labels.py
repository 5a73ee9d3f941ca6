"""Labels of whole images: several that may occur together (multi-label), or one of several classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from etils.epy import lazy_imports
from omegaconf import MISSING

from dira_scale.base.arguments import ArgumentError, AtLeast
from dira_scale.base.config.schema import one_of, setting
from dira_scale.base.errors import UserError, nearest
from dira_scale.dataset.metrics.cases import LabelCase, case_keys, label_arrays
from dira_scale.dataset.metrics.classification import classification, label_statistics
from dira_scale.dataset.metrics.figure import ALL, MEAN, Figure, Key
from dira_scale.dataset.metrics.multiclass import class_statistics, multiclass
from dira_scale.dataset.metrics.statistics.weighted import Statistic, Statistics, average
from dira_scale.dataset.metrics.temperature import class_temperature, label_temperatures, logits_of, scaled
from dira_scale.dataset.metrics.thresholds import choose_thresholds
from dira_scale.judge.tasks.images import ImageScore, ImageSupervision, ImageTask, image_rows
from dira_scale.judge.tasks.task import AllReduce, Chosen, Supervision
from dira_scale.train.data.config import COUNTS_AS
from dira_scale.train.data.constants import constant
from dira_scale.train.data.labels import LabelChoice, Labels, certain, class_numbers, labels_of
from dira_scale.train.runs.description import Best, Metric, Output, Term

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.judge.tasks.predictions import Predictions
    from dira_scale.train.inputs import Inputs

with lazy_imports():
    import numpy as np
    import torch
    import torch.nn.functional as F

CE = "ce"  # a loss term
AUROC, ACCURACY = "auroc", "accuracy"
BALANCED = "balanced"


@dataclass
class LabelTask(ImageTask):
    """Labels of whole images."""

    loss: list[str] = setting(one_of("ce"))
    labels: list[str] | None = None
    scored: list[str] | None = None
    uncertain: Any = MISSING
    unknown: str = setting(one_of(*COUNTS_AS))
    exclusive: bool = MISSING
    weights: str = setting(one_of("none", BALANCED))
    focal: float = setting(AtLeast(0))

    def __post_init__(self) -> None:
        """Raises ArgumentError for scored labels where one figure of all classes decides, and for no labels."""
        super().__post_init__()
        if self.labels is not None and not self.labels:
            raise ArgumentError("labels", self.labels, "at least one label, or null, which is all")
        if self.scored is not None and (self.exclusive or not self.scored):
            raise ArgumentError(
                "scored",
                self.scored,
                "null: the accuracy of all classes decides" if self.exclusive else "at least one label, or null",
            )

    def input_arguments(self) -> dict[str, Any]:
        names = None if self.labels is None else tuple(self.labels)
        return {"labels": LabelChoice(names, self.uncertain, self.unknown, self.exclusive)}

    def supervision(self, data: Inputs) -> Supervision:
        assert isinstance(data.labels, Labels), "asked for"
        balanced = self.weights == BALANCED
        weights = balance(data.learned_targets(), self.exclusive) if balanced else None
        for name in self.scored or ():
            if name not in (names := data.labels.names):
                raise UserError(
                    f"task.scored: no label '{name}' is learned, but {', '.join(names)}{nearest(name, names)}"
                )
        return self._learns(data.labels, weights)

    def _learns(self, labels: Labels, weights: tuple[float, ...] | None = None) -> Classification:
        return Classification(labels, weights, self.focal, None if self.scored is None else tuple(self.scored))

    def described(self, facts: Mapping[str, Any]) -> Supervision:
        names = tuple(facts.get("outputs") or self.labels or ())
        nan = float("nan")
        return self._learns(Labels(names, (), len(names) * (nan,), nan, self.exclusive))

    def named(self, facts: Mapping[str, Any], dataset: ShardedDataset) -> Self:
        return replace(self, labels=[*labels_of(dataset, facts["outputs"])])


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    exclusive: bool,
    all_reduce: AllReduce,
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
    total, counted = all_reduce(torch.stack([(losses * weighted).sum(), count.sum()]))
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

    def terms(self, logits: Tensor, targets: Tensor, all_reduce: AllReduce) -> dict[str, Tensor]:
        return {CE: cross_entropy(logits, targets, self.labels.exclusive, all_reduce, self.weights, self.focal)}

    def predicted(self, logits: Tensor) -> Tensor:
        return torch.softmax(logits.float(), 1) if self.labels.exclusive else torch.sigmoid(logits.float())

    def score(self) -> ImageScore:
        return ImageScore(self, self._validated, certain)

    def _validated(self, targets: np.ndarray, scores: np.ndarray, index: np.ndarray) -> dict[str, float]:
        """AUROC of each label and their mean, accuracy of classes."""
        if self.labels.exclusive:
            figures = multiclass(self._classes(targets), scores, self.outputs, index)
        else:
            figures = classification(targets, scores, self.outputs, index, scored=self.scored)
        areas = [figure for figure in figures if figure.metric == "AUROC"]
        values = {AUROC if f.name == MEAN else f"{AUROC}/{f.name}": f.value for f in areas}
        right = [(ACCURACY, figure.value) for figure in figures if figure.key == ("accuracy", ALL)]
        return values | dict(right)

    @staticmethod
    def _classes(targets: np.ndarray) -> np.ndarray:
        """Return which class each row of ``targets`` [N, L] has, [N]."""
        return class_numbers(torch.from_numpy(targets)).numpy()

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
        targets, scores, names, _ = label_arrays(cases)
        values = logits_of(scores, self.labels.exclusive)
        if self.labels.exclusive:  # one for all classes
            return dict.fromkeys(names, class_temperature(self._classes(targets), values))
        return dict(zip(names, label_temperatures(targets, values).tolist(), strict=True))

    def calibrated(self, cases: Sequence[LabelCase], temperatures: Mapping[str, float]) -> list[LabelCase]:
        _, scores, names, _ = label_arrays(cases)
        values = scaled(scores, [temperatures[name] for name in names], self.labels.exclusive).ravel().tolist()
        return [replace(case, probability=value) for case, value in zip(cases, values, strict=True)]

    def figures(self, cases: Sequence[LabelCase], chosen: Chosen) -> list[Figure]:
        targets, scores, names, patients = label_arrays(cases)
        if self.labels.exclusive:
            return multiclass(self._classes(targets), scores, names, patients)
        thresholds = None if chosen.thresholds is None else [chosen.thresholds[name] for name in names]
        return classification(targets, scores, names, patients, thresholds, scored=self.scored)

    def statistics(self, cases: Sequence[LabelCase], chosen: Chosen) -> Statistics:
        targets, scores, names, patients = label_arrays(cases)
        figures: dict[Key, Statistic] = {}
        for name, target, score in zip(names, targets.T, scores.T, strict=True):
            of_label = label_statistics(target, score, None if chosen.thresholds is None else chosen.thresholds[name])
            figures |= {(metric, name): statistic for metric, statistic in of_label.items()}
        for metric in dict.fromkeys(metric for metric, _ in figures):
            figures[metric, MEAN] = average([figures[metric, name] for name in names if name in (self.scored or names)])
        if self.labels.exclusive:
            figures |= class_statistics(self._classes(targets), scores, names)
        return Statistics(figures, case_keys(cases, len(names)), patients)

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
