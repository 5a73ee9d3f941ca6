"""Figures of numbers, by the formulas written plainly and by scipy."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from dira_scale.dataset.metrics.figure import MEAN
from dira_scale.dataset.metrics.regression import regression

PATIENTS = [f"p{n // 2}" for n in range(40)]


def made() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = np.stack([rng.normal(55, 15, 40), rng.normal(0.6, 0.1, 40)], 1)
    predictions = targets + rng.normal(0, 1, targets.shape) * [8, 0.2]
    targets[::9, 0] = np.nan
    return targets, predictions


def test_figures_are_those_of_the_formulas_over_what_is_known() -> None:
    targets, predictions = made()
    figures = {figure.key: figure for figure in regression(targets, predictions, ["age", "ef"], PATIENTS)}
    for name, y, x in zip(["age", "ef"], targets.T, predictions.T, strict=True):
        known = np.isfinite(y)
        error, y = x[known] - y[known], y[known]
        assert figures["MAE", name].value == pytest.approx(np.abs(error).mean())
        assert figures["RMSE", name].value == pytest.approx(np.sqrt((error**2).mean()))
        assert figures["R2", name].value == pytest.approx(1 - (error**2).sum() / ((y - y.mean()) ** 2).sum())
        assert figures["Pearson r", name].value == pytest.approx(pearsonr(x[known], y).statistic)
    about = figures["MAE", "age"]
    assert (about.n, about.left_out, about.patients, about.positives) == (35, 5, 20, None)
    assert figures["R2", MEAN].value == pytest.approx((figures["R2", "age"].value + figures["R2", "ef"].value) / 2)
    assert ("MAE", MEAN) not in figures, "years and shares have no mean"
    assert figures["R2", "ef"].value < 0, "worse than the mean"


def test_of_a_single_number_the_mean_is_its_own() -> None:
    targets, predictions = made()
    figures = {f.key: f.value for f in regression(targets[:, :1], predictions[:, :1], ["age"], PATIENTS)}
    for metric in ("MAE", "RMSE", "R2", "Pearson r"):
        assert figures[metric, MEAN] == figures[metric, "age"]


def test_what_does_not_vary_has_no_r2_and_what_is_unknown_no_figure() -> None:
    targets = np.array([[5.0, np.nan, 1.0], [5.0, np.nan, 2.0]])
    predictions = np.array([[4.0, 1.0, 3.0], [6.0, 2.0, 3.0]])
    figures = {f.key: f.value for f in regression(targets, predictions, ["same", "unknown", "said"], ["a", "b"])}
    assert figures["MAE", "same"] == 1 and np.isnan(figures["R2", "same"]) and np.isnan(figures["Pearson r", "same"])
    assert all(np.isnan(figures[metric, "unknown"]) for metric in ("MAE", "RMSE", "R2", "Pearson r"))
    assert figures["R2", "said"] == pytest.approx(-9) and np.isnan(figures["Pearson r", "said"])
    assert figures["R2", MEAN] == pytest.approx(-9)


@pytest.mark.parametrize(
    ("targets", "predictions", "why"),
    [
        ([[np.inf]], [[1.0]], "finite"),
        ([[1.0]], [[np.nan]], "finite"),
        ([[1.0]], [[1.0, 2.0]], r"must both be \(1, 1\)"),
    ],
)
def test_what_is_no_number_is_refused(targets: list[list[float]], predictions: list[list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        regression(np.array(targets), np.array(predictions), ["a"], ["p"])
