"""DeLong's test against its definition, which compares every positive with every negative, and against MLstatkit's."""

import math
from dataclasses import astuple

import numpy as np
import pytest
from MLstatkit import Delong_test
from scipy import stats
from sklearn.metrics import roc_auc_score

from dira_scale.metrics.statistics.delong import delong_interval, delong_test


def made_up(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets and the scores of two networks, correlated, of few values."""
    generator = np.random.default_rng(seed)
    targets = np.r_[0, 0, 1, 1, generator.integers(0, 2, generator.integers(10, 60))].astype(float)
    base = targets * 0.4 + generator.random(len(targets))
    first, second = (np.round(base + generator.random(len(targets)) * 0.8, 1) for _ in range(2))
    return targets, first, second


def by_definition(targets: np.ndarray, scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Areas and their covariance: DeLong et al., eq. 4 to 6, in loops."""
    of_positives, of_negatives = [], []
    for score in scores:
        positives, negatives = score[targets == 1], score[targets == 0]
        psi = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in negatives] for x in positives]
        of_positives.append([sum(row) / len(negatives) for row in psi])
        of_negatives.append([sum(row[j] for row in psi) / len(positives) for j in range(len(negatives))])
    means = [sum(values) / len(values) for values in of_positives]
    covariance = np.zeros((len(scores), len(scores)))
    for parts in (of_positives, of_negatives):
        count = len(parts[0])
        for r, s in np.ndindex(covariance.shape):
            pairs = zip(parts[r], parts[s], strict=True)
            shared = sum((a - means[r]) * (b - means[s]) for a, b in pairs) / (count - 1)
            covariance[r, s] += shared / count
    return np.array(means), covariance


def test_a_hundred_sets_with_ties() -> None:
    for seed in range(100):
        targets, first, second = made_up(seed)
        assert len(np.unique(first)) < len(first)
        found = delong_test(targets, first, second)
        areas, covariance = by_definition(targets, [first, second])
        assert (found.first.auroc, found.second.auroc) == pytest.approx(areas)
        assert found.first.auroc == pytest.approx(roc_auc_score(targets, first))
        error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        z = (areas[1] - areas[0]) / error
        assert (found.z, found.p) == pytest.approx((z, 2 * stats.norm.cdf(-abs(z))))
        for area, side in zip((found.first, found.second), range(2), strict=True):
            low, high = stats.norm.interval(0.95, areas[side], math.sqrt(covariance[side, side]))
            assert (area.low, area.high) == pytest.approx((max(0, low), min(1, high)))


def test_a_hundred_sets_as_mlstatkit_has_them() -> None:
    for seed in range(100):
        targets, first, second = made_up(seed)
        found = delong_test(targets, first, second)
        z, p, interval, other, auroc, auroc_2, _ = Delong_test(targets, first, second)
        expected = (z, p, *interval, *other, auroc, auroc_2)
        a, b = found.first, found.second
        assert (found.z, found.p, a.low, a.high, b.low, b.high, a.auroc, b.auroc) == pytest.approx(expected)


def test_unknown_rows_do_not_count_and_the_area_alone_is_the_same() -> None:
    targets, first, second = made_up(0)
    wider = [np.r_[array, 0.9, 0.1] for array in (first, second)]
    assert delong_test(np.r_[targets, np.nan, np.nan], *wider) == delong_test(targets, first, second)
    alone, of_two = delong_interval(targets, first), delong_test(targets, first, second).first
    assert astuple(alone) == pytest.approx(astuple(of_two), rel=1e-12)
    narrow, wide = (delong_interval(targets, first, level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_what_has_no_variance() -> None:
    targets = np.array([0.0, 0, 1, 1])
    perfect = np.array([0.1, 0.2, 0.8, 0.9])
    same = delong_test(targets, perfect, perfect)
    assert (same.difference, same.z, same.p) == (0, 0, 1)
    assert (same.first.low, same.first.high) == (1, 1)
    opposite = delong_test(targets, perfect, -perfect)
    assert (opposite.z, opposite.p) == (-np.inf, 0)
    alone = delong_test(targets[1:], perfect[1:], perfect[1:])  # one negative: an area, but no variance
    assert alone.first.auroc == 1 and np.isnan([alone.first.low, alone.z, alone.p]).all()
    assert np.isnan(delong_interval(np.ones(4), perfect).auroc)


def test_p_is_uniform_where_two_networks_are_equal() -> None:
    """Of 400 comparisons of scores of one distribution."""
    p = []
    for seed in range(400):
        generator = np.random.default_rng(seed)
        targets = generator.integers(0, 2, 80)
        base = targets + generator.normal(size=80)
        p.append(delong_test(targets, base + generator.normal(size=80), base + generator.normal(size=80)).p)
    assert stats.kstest(p, "uniform").pvalue > 0.01
