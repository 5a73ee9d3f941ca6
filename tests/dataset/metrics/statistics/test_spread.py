"""Three kinds of uncertainty in three columns, and tests between settings, by numpy's and scipy's own sums."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from dira_scale.dataset.metrics.figure import Figure, plain
from dira_scale.dataset.metrics.statistics.bootstrap import Interval
from dira_scale.dataset.metrics.statistics.significance import Comparison, compare, holm
from dira_scale.dataset.metrics.statistics.spread import Result, Spread, spread_table, spreads

DIRA = {"r0": [0.80, 0.82, 0.84], "r1": [0.86, 0.88], "r2": [0.81]}
RANDOM = {"i0": [0.70, 0.74], "i1": [0.71, 0.75], "i2": [0.60, 0.66]}


def figure(value: float, patients: int = 50, metric: str = "AUROC") -> Figure:
    return Figure(metric, "", value, 100, 0, patients)


def rows(setting: str, runs: dict[str, list[float]], metric: str = "AUROC") -> list[Result]:
    return [
        Result(setting, run, seed, figure(value, metric=metric))
        for run, values in runs.items()
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize("ddof", [0, 1])
def test_n_counts_pretraining_runs_and_seeds_stay_within_them(ddof: int) -> None:
    interval = Interval(0.83, 0.79, 0.87, 0.95, "percentile", 50, 2000, 0)
    dira, random = spreads(rows("dira", DIRA) + rows("random", RANDOM), {("dira", "AUROC"): interval}, ddof)
    means = [0.82, 0.87, 0.81]
    assert (dira.setting, dira.metric) == ("dira", "AUROC")
    assert (dira.n, dira.results, dira.patients, dira.ddof) == (3, 6, 50, ddof)
    assert dira.mean == pytest.approx(np.mean(means))  # not of the six values: a run with more seeds weighs no more
    assert dira.run_sd == pytest.approx(np.std(means, ddof=ddof))
    within = (3 - ddof) * np.var(DIRA["r0"], ddof=ddof) + (2 - ddof) * np.var(DIRA["r1"], ddof=ddof)
    assert dira.seed_sd == pytest.approx(np.sqrt(within / (5 - 2 * ddof)))
    assert (dira.interval, random.interval) == (interval, None)
    head, first, second = spread_table([dira, random])
    assert head[3:] == [
        "n (runs)", f"sd over runs (ddof {ddof})", f"sd over seeds (ddof {ddof})", "interval over patients (95 %)"
    ]  # fmt: skip
    assert first[3:] == ["3", f"{dira.run_sd:.4f}", f"{dira.seed_sd:.4f} (6 results)", "0.7900 to 0.8700 (50)"]
    assert second[-1] == "- (50)"


def test_what_one_run_or_one_seed_cannot_say_is_none() -> None:
    (one_run,) = spreads(rows("a", {"r": [0.5, 0.7]}))
    assert (one_run.n, one_run.run_sd, one_run.seed_sd) == (1, None, pytest.approx(np.std([0.5, 0.7], ddof=1)))
    (one_seed,) = spreads(rows("a", {"r": [0.5], "s": [0.7]}))
    assert (one_seed.n, one_seed.seed_sd) == (2, None)
    (lacking,) = spreads(rows("a", {"r": [0.5, np.nan], "s": [np.nan]}))
    assert (lacking.n, lacking.results, lacking.left_out, lacking.mean) == (1, 1, 2, 0.5)
    (nothing,) = spreads(rows("a", {"r": [np.nan]}))
    assert nothing.n == 0 and np.isnan(nothing.mean) and spread_table([nothing])[1][2:5] == ["-", "0", "-"]


def test_results_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="a run and seed is there twice"):
        spreads(rows("a", {"r": [0.5]}) * 2)
    other = Result("a", "s", 0, figure(0.5, 49))
    with pytest.raises(ValueError, match="test splits of 49, 50 patients are not one"):
        spreads([*rows("a", {"r": [0.5]}), other])


def test_tests_between_settings_are_scipys_over_the_means_of_runs() -> None:
    worse = {run: [value - 0.3 for value in values] for run, values in RANDOM.items()}
    results = rows("dira", DIRA) + rows("random", RANDOM) + rows("worse", worse) + rows("dira", DIRA, "Dice")
    found = compare(results, [("dira", "random"), ("dira", "worse")])
    assert [(c.first, c.second, c.metric, c.n_first, c.n_second, c.over) for c in found] == [
        ("dira", "random", "AUROC", 3, 3, "runs"), ("dira", "worse", "AUROC", 3, 3, "runs")
    ]  # fmt: skip
    means = [[np.mean(values) for values in runs.values()] for runs in (DIRA, RANDOM, worse)]
    for comparison, other in zip(found, means[1:], strict=True):
        assert comparison.difference == pytest.approx(np.mean(means[0]) - np.mean(other))
        pooled = np.sqrt((np.var(means[0], ddof=1) + np.var(other, ddof=1)) / 2 * (2 / 3))  # by hand: n = 3 and 3
        t = comparison.difference / pooled
        assert comparison.student == pytest.approx(2 * stats.t.sf(abs(t), 4))
        variances = np.array([np.var(means[0], ddof=1), np.var(other, ddof=1)]) / 3
        welch = variances.sum() ** 2 / (variances**2 / 2).sum()
        assert comparison.welch == pytest.approx(2 * stats.t.sf(abs(t), welch))
        assert comparison.comparisons == 2
    p = [comparison.student for comparison in found]
    assert [comparison.student_holm for comparison in found] == pytest.approx([max(p[0], 2 * p[1]), 2 * p[1]])
    assert [c.welch_holm for c in found] == pytest.approx(holm([c.welch for c in found]))


def test_the_papers_compare_seeds_of_one_pretraining() -> None:
    first, second = rows("a", {"r": [0.81, 0.82, 0.85]}), rows("b", {"s": [0.78, 0.80, 0.79, 0.81]})
    (seeds,) = compare(first + second, [("a", "b")], over="seeds")
    assert (seeds.n_first, seeds.n_second, seeds.over) == (3, 4, "seeds")
    assert seeds.student == stats.ttest_ind([0.81, 0.82, 0.85], [0.78, 0.80, 0.79, 0.81]).pvalue
    (runs,) = compare(first + second, [("a", "b")])
    assert (runs.n_first, runs.comparisons) == (1, 0) and np.isnan([runs.student, runs.welch, runs.student_holm]).all()
    with pytest.raises(ValueError, match="seeds of 3 pretraining runs"):
        compare(first + rows("b", RANDOM), [("a", "b")], over="seeds")


def test_holms_correction() -> None:
    """R's ``p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")``, and its definition: reject while p <= a / (m - i)."""
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert len(holm([])) == 0
    for seed in range(50):
        p = np.random.default_rng(seed).random(6) ** 3
        adjusted = holm([*p, np.nan])
        assert np.isnan(adjusted[-1])
        for level in (0.01, 0.05, 0.2):
            rejected, ranked = set(), np.argsort(p)
            for i, index in enumerate(ranked):
                if p[index] > level / (len(p) - i):
                    break
                rejected.add(int(index))
            assert set(np.flatnonzero(adjusted[:-1] <= level)) == rejected


def test_json_keeps_spreads_and_comparisons() -> None:
    """With NaN, of which JSON has none."""
    interval = Interval(0.83, np.nan, np.nan, 0.95, "percentile", 50, 0, 0)
    made = spreads(rows("dira", DIRA) + rows("one", {"r": [np.nan]}), {("dira", "AUROC"): interval})
    again = [Spread.of_json(row) for row in json.loads(json.dumps(plain([asdict(spread) for spread in made])))]
    assert repr(again) == repr(made)
    tests = compare(rows("dira", DIRA) + rows("one", {"r": [0.5]}), [("dira", "one")])
    assert np.isnan(tests[0].welch)
    assert repr([Comparison.of_json(row) for row in plain([asdict(test) for test in tests])]) == repr(tests)
