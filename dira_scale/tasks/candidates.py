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
    """Figures are also those of :func:`~dira_scale.metrics.froc.candidates`, where the dataset has the attributes
    ``lesion`` and ``lesions``: in which lesions of its scan a candidate lies, and how many the scan has."""

    def cases(self, predictions: Predictions) -> list[Any]:
        about = predictions.about
        places = zip(about.scans, about.attributes("lesion"), about.attributes("lesions"), strict=True)
        of = dict(zip(about.keys, places, strict=True))
        rows = [(asdict(row), *of[row.key]) for row in super().cases(predictions)]
        return [
            CandidateCase(**row, scan=scan, lesion=lesion, lesions=int(lesions or 0))
            for row, scan, lesion, lesions in rows
        ]

    def figures(self, cases: Sequence[Any], chosen: Chosen) -> list[Figure]:
        return candidates(cases) + super().figures(cases, chosen)

    def statistics(self, cases: Sequence[Any], chosen: Chosen) -> Statistics:
        statistics = super().statistics(cases, chosen)
        return replace(statistics, of={**statistics.of, **of_candidates(cases)})
