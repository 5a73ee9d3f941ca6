"""Labels of whole images: several that may occur together (multi-label), or one of several classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.labels import Labels, certain, class_numbers
from dira_scale.distributed.control import gather_objects
from dira_scale.engine.task import Best
from dira_scale.metrics.cases import LabelCase, label_arrays, label_cases
from dira_scale.metrics.classification import classification
from dira_scale.metrics.figure import MEAN, Figure
from dira_scale.metrics.multiclass import ALL, multiclass
from dira_scale.metrics.thresholds import choose_thresholds
from dira_scale.models.architecture import Architecture
from dira_scale.models.network import Encoder, Network
from dira_scale.runs.description import Metric, Output
from dira_scale.tasks.supervision import CE, Shared, SplitCases, probable

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
    logits, scale = logits.float(), None if weights is None else logits.new_tensor(weights, dtype=torch.float32)
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


@dataclass(frozen=True)
class Classification:
    """See :class:`dira_scale.tasks.supervision.Supervision`. Targets: float32 [b, L] of 0, 1 and NaN;
    smoothed ones between, which losses count and scores do not.

    Attributes:
        scored: the labels over which means are; None: all.
    """

    labels: Labels
    weights: tuple[float, ...] | None = None
    focal: float = 0.0
    scored: tuple[str, ...] | None = None
    pooled = True

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

    def network(self, model: Architecture, encoder: Encoder) -> Network:
        return model.build_classifier(encoder, len(self.outputs))

    def targets(self, batch: Batch, turned: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        assert batch.labels is not None
        return self.labels.targets(batch.labels)

    def terms(self, logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
        return {CE: cross_entropy(logits, targets, self.labels.exclusive, shared, self.weights, self.focal)}

    def probabilities(self, logits: Tensor) -> Tensor:
        return probable(logits, self.output.activation)

    def score(self) -> "LabelScore":
        return LabelScore(self)

    def cases(
        self,
        about: SplitCases,
        index: Tensor,
        probabilities: Tensor,
        targets: Tensor,
        spacing: Sequence[float] | None = None,
    ) -> list[LabelCase]:
        rows, values = index.cpu().numpy(), (certain(targets).cpu().numpy(), probabilities.double().cpu().numpy())
        return label_cases(about.keys[rows], about.patients[rows], about.split, self.outputs, *values)

    def thresholds(self, cases: Sequence[LabelCase]) -> dict[str, float] | None:
        if self.labels.exclusive:
            return None
        targets, scores, names, _ = label_arrays(cases)
        return dict(zip(names, choose_thresholds(targets, scores).tolist(), strict=True))

    def figures(self, cases: Sequence[LabelCase], thresholds: Mapping[str, float] | None) -> list[Figure]:
        targets, scores, names, patients = label_arrays(cases)
        if self.labels.exclusive:
            return multiclass(class_numbers(torch.from_numpy(targets)).numpy(), scores, names, patients)
        chosen = None if thresholds is None else [thresholds[name] for name in names]
        return classification(targets, scores, names, patients, chosen, scored=self.scored)

    def never_answered(self, cases: Sequence[LabelCase]) -> list[str]:
        if not self.labels.exclusive:
            return []
        targets, scores, names, _ = label_arrays(cases)
        answered = {*scores.argmax(1).tolist()} if len(scores) else set()
        return [name for i, name in enumerate(names) if (targets[:, i] == 1).any() and i not in answered]

    def judged(self, thresholds: Mapping[str, float] | None) -> dict[str, Any]:
        return {"exclusive": self.labels.exclusive, "thresholds": thresholds, "scored": self.scored}


class LabelScore:
    """AUROC of each label and their mean, accuracy of classes: of all held-out samples at once, as rows."""

    def __init__(self, task: Classification) -> None:
        self.task, self.rows = task, list[tuple[np.ndarray, ...]]()

    def add(self, batch: Batch, losses: Any, count: int) -> None:
        row = batch.index, certain(losses.targets), self.task.probabilities(losses.logits)
        self.rows.append(tuple(values[:count].cpu().numpy() for values in row))

    def values(self) -> dict[str, float]:
        index, targets, scores = gathered(self.rows)
        names, exclusive = self.task.outputs, self.task.labels.exclusive
        truth = class_numbers(torch.from_numpy(targets)).numpy() if exclusive else targets
        figures = (
            multiclass(truth, scores, names, index)
            if exclusive
            else classification(truth, scores, names, index, scored=self.task.scored)
        )
        values = {
            AUROC if figure.name == MEAN else f"{AUROC}/{figure.name}": figure.value
            for figure in figures if figure.metric == "AUROC"
        }  # fmt: skip
        if exclusive:
            values[ACCURACY] = next(f.value for f in figures if (f.metric, f.name) == ("accuracy", ALL))
        return {name: value for name, value in values.items() if not np.isnan(value)}


def gathered(rows: Sequence[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """All processes' rows in the order of the samples, whose numbers are the first array. Collective."""
    parts = [row for part in gather_objects([*rows]) for row in part if len(row[0])]
    arrays = [np.concatenate(values) for values in zip(*parts, strict=True)]
    order = np.argsort(arrays[0])
    return tuple(values[order] for values in arrays)
