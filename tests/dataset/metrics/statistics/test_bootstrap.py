"""Intervals over patients: against scipy, and coverage: how often the interval holds the truth, where the one over
images does not."""

import numpy as np
import pytest
from scipy import stats

from dira_scale.dataset.metrics.statistics import weighted
from dira_scale.dataset.metrics.statistics.bootstrap import bootstrap, bootstraps
from dira_scale.dataset.metrics.statistics.weighted import average, weighted_auroc, weighted_mean

SIMULATIONS = 400


def made_up(seed: int, rows: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets with unknown ones, scores with ties, weights of 5 resamples."""
    generator = np.random.default_rng(seed)
    targets = (generator.random(rows) < 0.4).astype(float)
    scores = np.round(targets * 0.3 + generator.random(rows), 1)
    targets[generator.random(rows) < 0.2] = np.nan
    return targets, scores, generator.integers(0, 4, (5, rows))


def test_what_has_no_value_is_nan_and_counted() -> None:
    targets, scores, _ = made_up(0)
    for name in ("weighted_auroc", "weighted_average_precision"):
        for only in (0.0, 1.0, np.nan):
            assert np.isnan(getattr(weighted, name)(np.full(60, only), scores)(np.ones((2, 60)))).all()
    assert np.isnan(weighted_mean(np.full(60, np.nan))(np.ones((2, 60)))).all()
    rare = np.zeros(60)
    rare[7] = 1  # every third resample is without its patient
    found = bootstrap(weighted_auroc(rare, scores), np.arange(60), resamples=1000)
    assert found.undefined == pytest.approx(1000 * (1 - 1 / 60) ** 60, abs=60) and found.low < found.high
    alone = bootstrap(weighted_mean(np.arange(3.0)), ["p"] * 3)
    assert (alone.value, alone.patients) == (1, 1) and np.isnan([alone.low, alone.high]).all()
    assert np.isnan(bootstrap(weighted_auroc(targets * 0, scores), np.arange(60)).value)


def test_means_of_statistics_share_the_patients() -> None:
    targets, scores, weights = made_up(1)
    first, second = weighted_auroc(targets, scores), weighted_auroc(targets, -scores)
    nothing = weighted_auroc(targets * 0, scores)
    assert average([first, second])(weights) == pytest.approx(np.full(5, 0.5))
    assert np.array_equal(average([first, nothing])(weights), first(weights))  # as a mean over labels has it
    assert np.isnan(average([nothing])(weights)).all()


def test_with_one_row_a_patient_it_is_scipys_bootstrap() -> None:
    values = np.random.default_rng(2).exponential(size=40) ** 2
    found = bootstrap(weighted_mean(values), np.arange(40), resamples=40_000)
    expected = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="percentile", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0.015)


def test_memory_is_bounded_by_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def statistic(weights: np.ndarray) -> np.ndarray:
        sizes.append(weights.size)
        return weighted_mean(np.arange(50.0))(weights)

    monkeypatch.setattr("dira_scale.dataset.metrics.statistics.bootstrap.AT_ONCE", 500)
    in_parts = bootstrap(statistic, np.arange(50), resamples=95)
    monkeypatch.undo()
    at_once = bootstrap(weighted_mean(np.arange(50.0)), np.arange(50), resamples=95)
    assert max(sizes) == 500 and in_parts == at_once


def test_intervals_over_patients_hold_the_truth_and_those_over_images_do_not() -> None:
    """The images of a patient, two to five, have Dice that are alike; the mean is 0.8."""
    right = np.zeros(2)
    for simulation in range(SIMULATIONS):
        generator = np.random.default_rng(simulation)
        patients = np.repeat(np.arange(80), generator.integers(2, 6, 80))
        of_patient, of_image = generator.normal(0, 0.08, 80)[patients], generator.normal(0, 0.05, len(patients))
        statistic = weighted_mean(0.8 + of_patient + of_image)
        for i, units in enumerate((patients, np.arange(len(patients)))):
            found = bootstrap(statistic, units, resamples=300, seed=simulation)
            right[i] += found.low <= 0.8 <= found.high
    over_patients, over_images = right / SIMULATIONS
    assert 0.93 <= over_patients <= 0.97
    assert over_images < 0.90


def test_several_statistics_have_the_intervals_that_each_has_alone() -> None:
    """Draws are of whole patients, whose rows are copies of each other here: over rows they would be narrower."""
    rng = np.random.default_rng(0)
    patients = [f"p{n // 5}" for n in range(200)]
    each = {name: weighted_mean(np.repeat(rng.normal(size=40), 5)) for name in "ab"}
    ends = bootstraps(each, patients, 500, 0.9, seed=3)
    for name, statistic in each.items():
        alone = bootstrap(statistic, patients, 500, 0.9, seed=3)
        assert ends[name] == pytest.approx((alone.low, alone.high))
