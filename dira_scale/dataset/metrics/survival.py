"""Metrics of predicted risks against times to an event."""

from __future__ import annotations

from collections.abc import Sequence

from etils.epy import lazy_imports

from dira_scale.dataset.metrics.figure import Figure, mean
from dira_scale.dataset.metrics.statistics.weighted import unweighted, weighted_concordance

with lazy_imports():
    import numpy as np

CONCORDANCE = "concordance"


def survival(
    times: np.ndarray, events: np.ndarray, risks: np.ndarray, name: str, patients: Sequence[str] | np.ndarray
) -> list[Figure]:
    """Return Harrell's concordance (JAMA 247, 1982) of the event ``name``, and the same as a mean.

    Over all pairs of which one is known to have outlived the other's event, the share in which the other had the higher
    risk; equal risks count half. At one time an event comes before those who were last seen then, and two events are no
    pair. NaN without a pair.

    Args:
        times, events: [N], NaN = unknown; events are 0 or 1.
        risks: [N], higher = earlier.
        patients: [N].

    Raises:
        ValueError: shapes that do not match, another event, a risk that is not finite.
    """
    times, events, risks, patients = (np.asarray(each) for each in (times, events, risks, patients))
    if not times.shape == events.shape == risks.shape == patients.shape or times.ndim != 1:
        raise ValueError(f"times {times.shape}, events {events.shape}, risks {risks.shape} must be as many as patients")
    known = ~(np.isnan(times) | np.isnan(events))
    if not np.isin(events[known], (0, 1)).all() or not np.isfinite(risks).all():
        raise ValueError("events must be 0, 1 or NaN (unknown), risks finite")
    value = unweighted(weighted_concordance(times, events, risks), len(times))
    count, several = int(known.sum()), len(np.unique(patients[known]))
    counts = count, len(known) - count, several, int((events[known] == 1).sum())
    figure = Figure(CONCORDANCE, name, value, *counts, share=True)
    return [figure, mean([figure], several)]
