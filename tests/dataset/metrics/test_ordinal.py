"""Figures of grades against scikit-learn's."""

import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, cohen_kappa_score, mean_absolute_error

from dira_scale.dataset.metrics.ordinal import graded, ordinal


def drawn() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 5, 60).astype(float)
    return targets, np.clip(targets + rng.integers(-1, 3, 60), 0, 4)


def test_figures_are_scikit_learns_of_any_draw() -> None:
    targets, predictions = drawn()
    unknown = targets.copy()
    unknown[::7] = math.nan
    figures = {figure.key: figure for figure in ordinal(unknown, predictions, "kl", [f"p{n}" for n in range(60)])}
    known = ~np.isnan(unknown)
    for often in (known.astype(int), known * np.random.default_rng(1).integers(0, 3, 60)):
        true, predicted = np.repeat(targets, often), np.repeat(predictions, often)
        expected = {
            "kappa": cohen_kappa_score(true, predicted, weights="quadratic"),
            "MAE": mean_absolute_error(true, predicted), "accuracy": accuracy_score(true, predicted),
        }  # fmt: skip
        values = {name: of(often[None])[0] for name, of in graded(unknown, predictions).items()}
        assert values == pytest.approx(expected)
        if (often == known).all():
            assert {name: figures[name, "kl"].value for name in expected} == pytest.approx(expected)
            assert {name: figures[name, "mean"].value for name in expected} == pytest.approx(expected)
    assert figures["kappa", "kl"].convention == "quadratic weights" and figures["MAE", "kl"].n == known.sum()


@pytest.mark.parametrize(("targets", "kappa"), [([2.0, 2], math.nan), ([1.0, 1], 0), ([math.nan] * 2, math.nan)])
def test_one_grade_alone(targets: list[float], kappa: float) -> None:
    of = ordinal(np.array(targets), np.array([2.0, 2]), "kl", ["a", "b"])[0]
    assert of.value == pytest.approx(kappa, nan_ok=True)


@pytest.mark.parametrize(("targets", "predictions"), [([0.5, 1], [1, 1]), ([1.0, 1], [-1, 1]), ([1.0, 1], [1])])
def test_what_is_no_grade_is_refused(targets: list[float], predictions: list[float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        ordinal(np.array(targets), np.array(predictions), "kl", ["a", "b"])
