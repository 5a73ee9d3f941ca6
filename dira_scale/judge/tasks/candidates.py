"""Candidates for lesions: a label of yes and no, and the free-response ROC curve of their scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.cases import CandidateCase
from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.dataset.metrics.froc import candidates, detected, scans
from dira_scale.dataset.metrics.statistics.weighted import Statistic, Statistics
from dira_scale.judge.tasks.labels import Classification, LabelTask
from dira_scale.judge.tasks.task import Chosen
from dira_scale.train.data.labels import Labels

if TYPE_CHECKING:
    from dira_scale.judge.tasks.predictions import Predictions


@dataclass
class CandidateTask(LabelTask):
    """Candidates for lesions, of one label."""

    def _learns(self, labels: Labels, weights: tuple[float, ...] | None = None) -> Classification:
        """Raises UserError for several labels, and for one of classes."""
        if self.exclusive:
            raise UserError("task.exclusive=true: candidates have one label of yes and no: use false, or task=labels")
        if labels.exclusive or len(labels.names) > 1:
            raise UserError(
                f"task.labels: candidates have one label of yes and no, not {', '.join(labels.names)}: name it, or use "
                "task=labels"
            )
        learned = super()._learns(labels, weights)
        return Candidates(labels, weights, learned.focal, learned.scored)


@dataclass(frozen=True)
class Candidates(Classification):
    """Figures are also those of :func:`~dira_scale.dataset.metrics.froc.candidates`, where all candidates of a split
    have the attribute ``lesions``, how many their scan has, and ``lesion``, in which of them they lie (none: in no
    lesion)."""

    def cases(self, predictions: Predictions) -> list[Any]:
        about, lesions = predictions.about, predictions.about.attributes("lesions")
        known = all(lesions)  # of two datasets one may not say it
        places = zip(about.keys, about.scans, about.attributes("lesion"), lesions, strict=True)
        by_key: dict[str, dict[str, Any]] = {
            key: {"scan": scan, "lesion": lesion * known, "lesions": int(count) if known else 0}
            for key, scan, lesion, count in places
        }
        return [CandidateCase(**asdict(row), **by_key[row.key]) for row in super().cases(predictions)]

    def figures(self, cases: Sequence[Any], chosen: Chosen) -> list[Figure]:
        return candidates(cases) + super().figures(cases, chosen)

    def statistics(self, cases: Sequence[Any], chosen: Chosen) -> Statistics:
        statistics = super().statistics(cases, chosen)
        of_scans, first = scans(cases)

        def of_rows(statistic: Statistic) -> Statistic:  # a bootstrap draws patients, so a scan's rows weigh alike
            return lambda weights: statistic(weights[:, first])

        names = {case.label for case in cases} | {MEAN}
        curve = {metric: of_rows(statistic) for metric, statistic in detected(of_scans).items()}
        of_curve = {(metric, name): statistic for name in names for metric, statistic in curve.items()}
        return replace(statistics, of={**statistics.of, **of_curve})
