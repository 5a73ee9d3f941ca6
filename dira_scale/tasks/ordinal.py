"""Ordered grades of whole images, 0 to K - 1, such as Kellgren and Lawrence's, a breast's density, retinopathy.

CORN (Shi, Cao and Raschka, Pattern Anal. Appl. 26, 2023): output j is the chance that a grade above j - 1 is above j;
products of these chances never rise with j, and the head is a plain linear layer of K - 1 outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data.numbers import Grades
from dira_scale.engine.task import Best
from dira_scale.metrics.cases import NumberCase, number_arrays
from dira_scale.metrics.figure import MEAN, Figure, Key
from dira_scale.metrics.ordinal import ACCURACY, KAPPA, MAE, ordinal
from dira_scale.metrics.statistics.of_cases import Statistics, of_grades
from dira_scale.runs.description import PRODUCTS, Metric, Output, Term
from dira_scale.tasks.supervision import Chosen, ImageSupervision, Predictions, Shared, image_rows
from dira_scale.training.inputs import Inputs

CORN = "corn"  # a loss term


def corn(logits: Tensor, targets: Tensor, shared: Shared) -> Tensor:
    """Return the mean cross-entropy over all questions: is a grade of at least j above j?.

    Args:
        logits: [b, K - 1].
        targets: [b, 1], grades; NaN does not count.
    """
    steps = torch.arange(logits.shape[1], device=logits.device)
    asked, above = (targets >= steps).to(logits.dtype), (targets > steps).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, above, reduction="none")
    total, count = shared(torch.stack([(losses * asked).sum(), asked.sum()]))
    return total / count.clamp(min=1)


def grades(predicted: np.ndarray) -> np.ndarray:
    """Return the grades [N] of chances [N, K - 1] to be above each: how many are over one half."""
    return np.asarray((np.asarray(predicted) > 0.5).sum(1), float)


@dataclass(frozen=True)
class Ordinal(ImageSupervision):
    """Targets: float32 [b, 1], a grade, NaN where nobody knows. Predicted are K - 1 chances to be above a grade."""

    labels: Grades
    learned, pooled = "grades", True
    loss_terms: ClassVar[Mapping[str, Term]] = {
        CORN: Term("Cross-entropy", "cross-entropy of each step between grades that is asked for (CORN)")
    }
    best = Best(KAPPA, "max")
    metrics: ClassVar[Mapping[str, Metric]] = {
        KAPPA: Metric("Kappa, weighted quadratically", "max"),
        "mae": Metric("Mean absolute error, in grades", "min"), ACCURACY: Metric("Accuracy", "max"),
    }  # fmt: skip

    @property
    def label(self) -> str:
        return self.labels.names[0]

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.label} above {grade}" for grade in range((self.labels.grades or 2) - 1))

    @property
    def output(self) -> Output:
        return Output(PRODUCTS, names=self.outputs, remark="The grade is the number of probabilities above one half.")

    @property
    def compared(self) -> Sequence[Key]:
        return [(KAPPA, MEAN), (MAE, self.label)]

    @property
    def facts(self) -> dict[str, Any]:
        return super().facts | {"label": self.label}

    def terms(self, logits: Tensor, targets: Tensor, shared: Shared) -> dict[str, Tensor]:
        return {CORN: corn(logits.float(), targets, shared)}

    def predicted(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits.float()).cumprod(1)

    def _validated(self, targets: np.ndarray, predicted: np.ndarray, index: np.ndarray) -> dict[str, float]:
        figures = ordinal(targets[:, 0], grades(predicted), self.label, index)
        return {figure.metric.lower(): figure.value for figure in figures if figure.name == MEAN}

    def unscored(self, data: Inputs, split: str, samples: int | None = None) -> str:
        targets = data.targets(split)[:samples]
        if len(targets[~targets.isnan()].unique()) > 1:
            return ""
        return f"'{self.label}' has one grade alone among its {len(targets)} samples"

    def cases(self, predictions: Predictions) -> list[NumberCase]:
        """The prediction of a row is a grade."""
        return image_rows(NumberCase, predictions, [self.label], self.targets, lambda chances: grades(chances)[:, None])

    def figures(self, cases: Sequence[NumberCase], chosen: Chosen) -> list[Figure]:
        targets, predictions, _, patients = number_arrays(cases)
        return ordinal(targets[:, 0], predictions[:, 0], self.label, patients)

    def statistics(self, cases: Sequence[NumberCase], chosen: Chosen) -> Statistics:
        return of_grades(cases)

    def answers(self, predicted: Tensor, chosen: Chosen) -> np.ndarray:
        """Grades, then the chances."""
        chances = predicted.double().numpy()
        return np.concatenate((grades(chances)[:, None], chances), 1)

    def columns(self, chosen: Chosen) -> tuple[str, ...]:
        return (self.label, *self.outputs)
