"""Harrell's concordance against a count of pairs, one by one."""

import math

import numpy as np
import pytest

from dira_scale.dataset.metrics.figure import MEAN
from dira_scale.dataset.metrics.statistics import weighted
from dira_scale.dataset.metrics.survival import survival

NAN = math.nan


def counted(times: np.ndarray, events: np.ndarray, risks: np.ndarray) -> float:
    """By the definition, over ordered pairs; equal risks count half."""
    right = pairs = 0.0
    rows = [row for row in zip(times, events, risks, strict=True) if not np.isnan(row).any()]
    for t, e, r in rows:
        for later, other, risk in rows:
            if e == 1 and (later > t or (later == t and other == 0)):
                pairs += 1
                right += 1 if risk < r else 0.5 if risk == r else 0
    return right / pairs if pairs else NAN


def drawn(n: int = 70) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With ties of times and of risks, and of both what nobody knows."""
    rng = np.random.default_rng(0)
    times, events, risks = rng.integers(1, 20, n) / 2, rng.integers(0, 2, n) / 1, rng.integers(-4, 5, n) / 2
    times[::11], events[::13] = NAN, NAN
    return times, events, risks


def test_the_concordance_is_that_of_a_count_of_pairs_of_any_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighted, "EVENTS", 7)  # several parts
    times, events, risks = drawn()
    of, mean = survival(times, events, risks, "died", [f"p{n // 2}" for n in range(70)])
    known = ~(np.isnan(times) | np.isnan(events))
    assert (of.value, mean.value) == pytest.approx(2 * (counted(times, events, risks),)) and mean.name == MEAN
    assert (of.n, of.left_out, of.positives) == (known.sum(), 70 - known.sum(), np.nansum(events[known]))
    for seed in range(3):
        often = np.random.default_rng(seed).integers(0, 3, 70)
        value = weighted.weighted_concordance(times, events, risks)(often[None])[0]
        assert value == pytest.approx(counted(*(np.repeat(each, often) for each in (times, events, risks))))


@pytest.mark.parametrize(
    ("times", "events", "risks", "value"),
    [
        ([1, 2, 3], [1, 1, 0], [3, 2, 1], 1.0),
        ([1, 2, 3], [1, 0, 0], [1, 2, 2], 0.0),
        ([5, 5], [1, 0], [2, 1], 1.0),  # who was last seen when the other died has outlived them
        ([5, 5], [1, 1], [2, 1], NAN),
        ([1, 2], [0, 1], [2, 1], NAN),  # the first may live for longer than the second
        ([1, 2], [1, NAN], [2, 1], NAN),
        ([], [], [], NAN),
    ],
)
def test_which_pairs_are_compared(times: list[float], events: list[float], risks: list[float], value: float) -> None:
    patients = [str(n) for n in range(len(times))]
    assert [figure.value for figure in survival(np.array(times, float), np.array(events, float),
                                                np.array(risks, float), "died", patients)] == pytest.approx(
        [value, value], nan_ok=True)  # fmt: skip


@pytest.mark.parametrize(("events", "risks"), [([2.0, 1], [0.0, 1]), ([1.0, 0], [NAN, 1]), ([1.0, 0], [1.0])])
def test_what_is_no_event_or_risk_is_refused(events: list[float], risks: list[float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        survival(np.array([1.0, 2]), np.array(events), np.array(risks), "died", ["a", "b"])
