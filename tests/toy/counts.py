"""A task of one's own in one file: several counts of each image, by a Poisson regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.config.schema import one_of, setting
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import NumberCase, case_keys, number_arrays
from dira_scale.dataset.metrics.figure import MEAN, Figure, mean
from dira_scale.dataset.metrics.statistics.weighted import Statistics, average, unweighted, weighted_mean
from dira_scale.judge.tasks.images import ImageSupervision, ImageTask, image_rows
from dira_scale.judge.tasks.predictions import Predictions
from dira_scale.judge.tasks.task import AllReduce, Chosen, Supervision
from dira_scale.train.data.numbers import NumberChoice, Numbers
from dira_scale.train.inputs import Inputs
from dira_scale.train.runs.description import Best, Metric, Output, Term

POISSON, DEVIANCE = "poisson", "deviance"


@dataclass
class CountTask(ImageTask):
    loss: list[str] = setting(one_of(POISSON))
    labels: list[str] | None = None

    def input_arguments(self) -> dict[str, Any]:
        return {"labels": NumberChoice(None if self.labels is None else tuple(self.labels))}

    def supervision(self, data: Inputs) -> Supervision:
        assert isinstance(data.labels, Numbers)
        return Counts(data.labels)

    def described(self, facts: Mapping[str, Any]) -> Supervision:
        return Counts(Numbers(tuple(facts.get("outputs") or self.labels or ())))

    def named(self, facts: Mapping[str, Any], dataset: ShardedDataset) -> Self:
        return replace(self, labels=[*facts["outputs"]])


@dataclass(frozen=True)
class Counts(ImageSupervision):
    """Targets: float32 [b, L], counts. The network gives the logarithms of their expectations."""

    labels: Numbers
    learned, pooled = "counts", True
    loss_terms: ClassVar[Mapping[str, Term]] = {POISSON: Term("Poisson", "negative log likelihood of a Poisson law")}
    best = Best(DEVIANCE, "min")
    metrics: ClassVar[Mapping[str, Metric]] = {DEVIANCE: Metric("Poisson deviance, mean over the counts", "min")}
    compared = ((DEVIANCE, MEAN),)

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def output(self) -> Output:
        return Output(names=self.outputs, remark="The output is the logarithm of the count that is expected.")

    def terms(self, logits: Tensor, targets: Tensor, all_reduce: AllReduce) -> dict[str, Tensor]:
        losses = logits.float().exp() - targets * logits.float()
        total, count = all_reduce(torch.stack([losses.sum(), torch.tensor(float(losses.numel()))]))
        return {POISSON: total / count}

    def predicted(self, logits: Tensor) -> Tensor:
        return logits.float().exp()

    def _validated(self, targets: np.ndarray, predicted: np.ndarray, index: np.ndarray) -> dict[str, float]:
        return {DEVIANCE: float(deviance(targets, predicted).mean())}

    def cases(self, predictions: Predictions) -> list[NumberCase]:
        return image_rows(NumberCase, predictions, self.outputs, self.targets)

    def figures(self, cases: Sequence[NumberCase], chosen: Chosen) -> list[Figure]:
        statistics, patients = self.statistics(cases, chosen), len({case.patient for case in cases})
        rows = len(statistics.keys)
        each = [
            Figure(DEVIANCE, name, unweighted(statistics.of[DEVIANCE, name], rows), rows, 0, patients)
            for name in self.outputs
        ]
        return [*each, mean(each, patients)]

    def statistics(self, cases: Sequence[NumberCase], chosen: Chosen) -> Statistics:
        targets, predicted, names, patients = number_arrays(cases)
        figures = {
            (DEVIANCE, name): weighted_mean(each)
            for name, each in zip(names, deviance(targets, predicted).T, strict=True)
        }
        return Statistics(
            {**figures, (DEVIANCE, MEAN): average([*figures.values()])}, case_keys(cases, len(names)), patients
        )


def deviance(targets: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Return the Poisson deviance of each count, [N, L]."""
    logs = targets * np.log(np.where(targets > 0, targets, 1) / predicted)
    return np.asarray(2 * (logs - targets + predicted))
