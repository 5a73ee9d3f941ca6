"""Candidates for lesions: a label of yes and no, and the free-response ROC curve of their scans."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dira_scale.metrics.cases import CandidateCase
from dira_scale.metrics.figure import Figure
from dira_scale.metrics.froc import candidates
from dira_scale.metrics.statistics.of_cases import Statistics, of_candidates
from dira_scale.tasks.labels import Classification
from dira_scale.tasks.supervision import Chosen, Predictions


@dataclass(frozen=True)
class Candidates(Classification):
    """Figures are also those of :func:`~dira_scale.metrics.froc.candidates`, where all candidates of a split have the
    attribute ``lesions``, how many their scan has, and ``lesion``, in which of them they lie (none: in no lesion)."""

    def cases(self, predictions: Predictions) -> list[Any]:
        about, lesions = predictions.about, predictions.about.attributes("lesions")
        known = all(lesions)  # of two datasets one may not say it
        places = zip(about.keys, about.scans, about.attributes("lesion"), lesions, strict=True)
        of: dict[str, dict[str, Any]] = {
            key: {"scan": scan, "lesion": lesion * known, "lesions": int(count) if known else 0}
            for key, scan, lesion, count in places
        }
        return [CandidateCase(**asdict(row), **of[row.key]) for row in super().cases(predictions)]

    def figures(self, cases: Sequence[Any], chosen: Chosen) -> list[Figure]:
        return candidates(cases) + super().figures(cases, chosen)

    def statistics(self, cases: Sequence[Any], chosen: Chosen) -> Statistics:
        statistics = super().statistics(cases, chosen)
        return replace(statistics, of={**statistics.of, **of_candidates(cases)})
