"""Numbers of whole images: an age, an ejection fraction, any label that is a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from etils.epy import lazy_imports

from dira_scale.base.arguments import Length
from dira_scale.base.config.schema import one_of, setting
from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.cases import NumberCase, case_keys, number_arrays
from dira_scale.dataset.metrics.figure import MEAN, Figure, Key
from dira_scale.dataset.metrics.regression import MAE, R2, number_statistics, regression
from dira_scale.dataset.metrics.statistics.weighted import Statistic, Statistics, average
from dira_scale.judge.tasks.images import ImageSupervision, ImageTask, image_rows
from dira_scale.judge.tasks.task import AllReduce, Chosen, Facts, Supervision
from dira_scale.train.data.constants import constant
from dira_scale.train.data.numbers import NumberChoice, Numbers
from dira_scale.train.runs.description import Best, Metric, Output, Term

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.judge.tasks.predictions import Predictions
    from dira_scale.train.inputs import Inputs

with lazy_imports():
    import numpy as np
    import torch

SQUARED, ABSOLUTE = "mse", "mae"  # loss terms
Normalised = Mapping[str, Sequence[float]]  # mean and deviation by name


class NumberFacts(Facts):
    """``normalised``: mean and deviation by name."""

    normalised: dict[str, Annotated[list[float], Length(2)]]


@dataclass
class RegressionTask(ImageTask):
    """Numbers of whole images."""

    facts: ClassVar[type] = NumberFacts
    loss: list[str] = setting(one_of("mse", "mae"))
    labels: list[str] | None = None

    def input_arguments(self) -> dict[str, Any]:
        return {"labels": NumberChoice(None if self.labels is None else tuple(self.labels))}

    def supervision(self, data: Inputs) -> Supervision:
        assert isinstance(data.labels, Numbers), "asked for"
        return Regression(data.labels, normalisation(data.learned_targets(), data.labels.names))

    def described(self, facts: Mapping[str, Any]) -> Supervision:
        names, normalised = facts.get("outputs") or self.labels or (), facts.get("normalised") or {}
        if normalised and (lacking := {*names} - {*normalised}):
            raise UserError(f"facts.normalised.{min(lacking)} is missing")
        return Regression(Numbers(tuple(names)), normalised)

    def named(self, facts: Mapping[str, Any], dataset: ShardedDataset) -> Self:
        return replace(self, labels=[*facts["outputs"]])


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

    def terms(self, logits: Tensor, targets: Tensor, all_reduce: AllReduce) -> dict[str, Tensor]:
        logits, known = logits.float(), ~targets.isnan()
        mean, deviation = self._pairs(logits)
        errors = torch.where(known, logits - (targets.nan_to_num() - mean) / deviation, 0.0)
        squares, distances, count = all_reduce(
            torch.stack([(errors**2).sum(), errors.abs().sum(), known.float().sum()])
        )
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
        targets, predictions, names, patients = number_arrays(cases)
        figures: dict[Key, Statistic] = {}
        for name, target, prediction in zip(names, targets.T, predictions.T, strict=True):
            of_number = number_statistics(target, prediction)
            figures |= {(metric, name): statistic for metric, statistic in of_number.items()}
        for metric in dict.fromkeys(metric for metric, _ in figures):
            figures[metric, MEAN] = average([figures[metric, name] for name in names])
        return Statistics(figures, case_keys(cases, len(names)), patients)
