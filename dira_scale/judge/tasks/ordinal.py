"""Ordered grades of whole images, 0 to K - 1, such as Kellgren and Lawrence's, a breast's density, retinopathy.

CORN (Shi, Cao and Raschka, Pattern Anal. Appl. 26, 2023): output j is the chance that a grade above j - 1 is above j;
products of these chances never rise with j, and the head is a plain linear layer of K - 1 outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

from etils.epy import lazy_imports

from dira_scale.base.arguments import UNSHOWN, ArgumentError, Within
from dira_scale.base.config.schema import one_of, setting
from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.cases import NumberCase, case_keys, number_arrays
from dira_scale.dataset.metrics.figure import MEAN, Figure, Key
from dira_scale.dataset.metrics.ordinal import ACCURACY, KAPPA, MAE, graded, ordinal
from dira_scale.dataset.metrics.statistics.weighted import Statistics
from dira_scale.judge.tasks.images import ImageSupervision, ImageTask, image_rows
from dira_scale.judge.tasks.task import ELSEWHERE, AllReduce, Chosen, Facts, Supervision
from dira_scale.train.data.labels import LabelError
from dira_scale.train.data.numbers import NumberChoice, Numbers
from dira_scale.train.runs.description import PRODUCTS, Best, Metric, Output, Term

if TYPE_CHECKING:
    from torch import Tensor

    from dira_scale.dataset.manifest import ShardedDataset
    from dira_scale.judge.tasks.predictions import Predictions
    from dira_scale.train.inputs import Inputs

with lazy_imports():
    import numpy as np
    import torch
    import torch.nn.functional as F

CORN = "corn"  # a loss term
MOST_GRADES = 1000  # each is an output, whose weights and predictions take memory


class GradeFacts(Facts):
    """``label``: the name of what is graded; its grades are one more than ``outputs``."""

    label: str


@dataclass
class OrdinalTask(ImageTask):
    """Ordered grades of whole images."""

    facts: ClassVar[type] = GradeFacts
    names_key: ClassVar[str] = "task.label"
    loss: list[str] = setting(one_of("corn"))
    label: str | None = None
    grades: int | None = setting(Within(2, MOST_GRADES), None)

    def input_arguments(self) -> dict[str, Any]:
        names = None if self.label is None else (self.label,)
        return {"labels": NumberChoice(names, partial(Grades, grades=self.grades))}

    def supervision(self, data: Inputs) -> Supervision:
        """Grades that are not typed are those up to the highest that is trained on. Raises UserError for a higher one
        elsewhere."""
        labels = data.labels
        assert isinstance(labels, Grades), "asked for"
        known = data.learned_targets()
        grades = self.grades or 1 + int(known[~known.isnan()].max())
        if grades == 2 and self.grades is None:
            raise UserError(
                f"task.label={labels.names[0]} has two grades, which are yes and no: use task=labels "
                f"task.labels=[{labels.names[0]}], or type task.grades=2"
            )
        held_out = {data.data.val_split, getattr(data.data, "test_split", None)} - {None}
        for split in sorted(map(str, held_out)):
            try:
                replace(labels, grades=grades).check(data.datasets, split, None)
            except LabelError as error:
                learned = "learn it by task=regression, " * (error.lacks == "grades")
                raise UserError(f"{error}: {learned}type task.grades=…, {ELSEWHERE}") from error
        return Ordinal(replace(labels, grades=grades))

    def described(self, facts: Mapping[str, Any]) -> Supervision:
        grades = len(facts["outputs"]) + 1 if "label" in facts else self.grades
        return Ordinal(Grades((facts.get("label") or self.label or "grade",), grades=grades))

    def named(self, facts: Mapping[str, Any], dataset: ShardedDataset) -> Self:
        return replace(self, label=facts["label"], grades=len(facts["outputs"]) + 1)


@dataclass(frozen=True)
class Grades(Numbers):
    """One label of ordered grades, 0 to ``grades`` - 1; None: of as many as there are."""

    grades: int | None = None

    def __post_init__(self) -> None:
        if len(self.names) > 1:
            raise ArgumentError("names", UNSHOWN, f"the one that is graded, of {', '.join(self.names)}")

    def _check(self, values: np.ndarray, counts: np.ndarray, where: str, learned: bool) -> None:
        """Raise LabelError also for a number that is no grade."""
        super()._check(values, counts, where, learned)
        known = values[~np.isnan(values)]
        highest = (self.grades or MOST_GRADES) - 1
        if (wrong := known[(known != np.round(known)) | (known < 0) | (known > highest)]).size:
            range_ = f"0 to {highest}" + ("" if self.grades is None else f", of which there are {self.grades}")
            raise LabelError(
                f"{where}: label '{self.names[0]}' has the value {wrong[0]:g}, and grades are {range_}", lacks="grades"
            )


def corn(logits: Tensor, targets: Tensor, all_reduce: AllReduce) -> Tensor:
    """Return the mean cross-entropy over all questions: is a grade of at least j above j?.

    Args:
        logits: [b, K - 1].
        targets: [b, 1], grades; NaN does not count.
    """
    steps = torch.arange(logits.shape[1], device=logits.device)
    asked, above = (targets >= steps).to(logits.dtype), (targets > steps).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, above, reduction="none")
    total, count = all_reduce(torch.stack([(losses * asked).sum(), asked.sum()]))
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

    def terms(self, logits: Tensor, targets: Tensor, all_reduce: AllReduce) -> dict[str, Tensor]:
        return {CORN: corn(logits.float(), targets, all_reduce)}

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
        targets, predictions, names, patients = number_arrays(cases)
        of_grades = graded(targets[:, 0], predictions[:, 0])
        figures = {(metric, name): statistic for metric, statistic in of_grades.items() for name in (*names, MEAN)}
        return Statistics(figures, case_keys(cases, 1), patients)

    def answers(self, predicted: Tensor, chosen: Chosen) -> np.ndarray:
        """Grades, then the chances."""
        chances = predicted.double().numpy()
        return np.concatenate((grades(chances)[:, None], chances), 1)

    def columns(self, chosen: Chosen) -> tuple[str, ...]:
        return (self.label, *self.outputs)
