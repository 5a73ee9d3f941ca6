"""Numbers of whole images: an age, an ejection fraction, any label that is a number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.constants import constant
from dira_scale.data.numbers import Numbers
from dira_scale.engine.task import Best
from dira_scale.metrics.cases import NumberCase, number_arrays
from dira_scale.metrics.figure import MEAN, Figure, Key
from dira_scale.metrics.regression import MAE, R2, regression
from dira_scale.metrics.statistics.of_cases import Statistics, of_numbers
from dira_scale.runs.description import Metric, Output, Term
from dira_scale.tasks.supervision import Chosen, ImageSupervision, Predictions, Shared, image_rows
from dira_scale.training.inputs import Inputs

SQUARED, ABSOLUTE = "mse", "mae"  # loss terms
Normalised = Mapping[str, Sequence[float]]  # mean and deviation by name


def normalisation(targets: Tensor, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the mean and the standard deviation (n) of what is known of ``targets`` [N, L], by name."""
    values = targets.double().numpy()
    means, deviations = np.nanmean(values, 0).tolist(), np.nanstd(values, 0).tolist()
    return dict(zip(names, zip(means, deviations, strict=True), strict=True))


@dataclass(frozen=True)
class Regression(ImageSupervision):
    """Targets: float32 [b, L] in their own units, NaN where nobody knows. A number is output x deviation + mean.

    Attributes:
        normalised: mean and deviation of the training split, by name; empty: the network gives the numbers themselves.
    """

    labels: Numbers
    normalised: Normalised = field(default_factory=dict)
    learned, pooled = "numbers", True
    loss_terms: ClassVar[Mapping[str, Term]] = {
        SQUARED: Term("Squared error", "mean squared error of normalised numbers, of what is known"),
        ABSOLUTE: Term("Absolute error", "mean absolute error of normalised numbers, of what is known"),
    }
    best = Best("r2", "max")

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.labels.names

    @property
    def output(self) -> Output:
        pairs = [self.normalised[name] for name in self.outputs] if self.normalised else []
        return Output(names=self.outputs, normalised=tuple((mean, deviation) for mean, deviation in pairs))

    @property
    def metrics(self) -> Mapping[str, Metric]:
        of_one = {"mae": Metric("Mean absolute error", "min")} if len(self.outputs) == 1 else {}
        return {"r2": Metric("R2" + ", mean over the numbers" * (len(self.outputs) > 1), "max")} | of_one

    @property
    def compared(self) -> Sequence[Key]:
        return [(R2, MEAN), *((MAE, name) for name in self.outputs)]

    @property
    def facts(self) -> dict[str, Any]:
        return super().facts | {"normalised": {name: [*pair] for name, pair in self.normalised.items()}}

    def terms(self, logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
        logits, known = logits.float(), ~targets.isnan()
        mean, deviation = self._pairs(logits)
        errors = torch.where(known, logits - (targets.nan_to_num() - mean) / deviation, 0.0)
        squares, distances, count = shared(torch.stack([(errors**2).sum(), errors.abs().sum(), known.float().sum()]))
        return {SQUARED: squares / count.clamp(min=1), ABSOLUTE: distances / count.clamp(min=1)}

    def predicted(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        mean, deviation = self._pairs(logits)
        return logits * deviation + mean

    def _pairs(self, like: Tensor) -> Tensor:
        """Means and deviations [2, L], of the type of ``like`` and where it is."""
        return constant(tuple(tuple(self.normalised.get(name, (0.0, 1.0))) for name in self.outputs), like).T

    def _validated(self, targets: np.ndarray, predictions: np.ndarray, index: np.ndarray) -> dict[str, float]:
        """R2 of each number and their mean, and absolute errors."""
        names, figures = {R2: "r2", MAE: "mae"}, regression(targets, predictions, self.outputs, index)
        return {
            names[figure.metric] if figure.name == MEAN else f"{names[figure.metric]}/{figure.name}": figure.value
            for figure in figures if figure.metric in names
        }  # fmt: skip

    def unscored(self, data: Inputs, split: str, samples: int | None = None) -> str:
        targets = data.targets(split)[:samples]
        if any(len(column[~column.isnan()].unique()) > 1 for column in targets.T):
            return ""
        return f"no number has two values among its {len(targets)} samples"

    def cases(self, predictions: Predictions) -> list[NumberCase]:
        return image_rows(NumberCase, predictions, self.outputs, self.targets)

    def figures(self, cases: Sequence[NumberCase], chosen: Chosen) -> list[Figure]:
        targets, predictions, names, patients = number_arrays(cases)
        return regression(targets, predictions, names, patients)

    def statistics(self, cases: Sequence[NumberCase], chosen: Chosen) -> Statistics:
        return of_numbers(cases)
