"""Intervals of a run's figures: a draw of patients has the figures of its rows, repeated as often as they are drawn."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dira_scale.dataset.metrics.cases import LabelCase, MaskCase, NumberCase, image_cases, label_arrays, number_arrays
from dira_scale.dataset.metrics.classification import classification
from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.dataset.metrics.multiclass import UNKNOWN, multiclass
from dira_scale.dataset.metrics.regression import regression
from dira_scale.dataset.metrics.segmentation import segmentation
from dira_scale.dataset.metrics.statistics.bootstrap import with_intervals
from dira_scale.dataset.metrics.statistics.weighted import Statistics
from dira_scale.judge.tasks.labels import Classification
from dira_scale.judge.tasks.masks import Segmentation
from dira_scale.judge.tasks.regression import Regression
from dira_scale.judge.tasks.task import Chosen
from dira_scale.train.data.labels import Labels
from dira_scale.train.data.numbers import Numbers

NAMES = ["a", "b", "c"]
PATIENTS = [f"p{n // 2}" for n in range(60)]


def made(exclusive: bool) -> list[LabelCase]:
    rng = np.random.default_rng(3)
    scores = (37 * rng.dirichlet(np.ones(3), 60)).round() / 37  # ties, none at an edge of a bin
    if exclusive:
        targets = np.eye(3)[(scores + rng.normal(0, 0.4, scores.shape)).argmax(1)]
        targets[::17] = np.nan
    else:
        targets = (scores + rng.normal(0, 0.3, scores.shape) > 0.4).astype(float)
        targets[rng.random(targets.shape) < 0.1] = np.nan
    return image_cases(LabelCase, [f"k{n:02}" for n in range(60)], PATIENTS, "test", NAMES, targets, scores)


def of_labels(
    cases: Sequence[LabelCase],
    exclusive: bool = False,
    thresholds: dict[str, float] | None = None,
    scored: tuple[str, ...] | None = None,
) -> Statistics:
    labels = Labels(tuple(NAMES), (), (np.nan,) * 3, np.nan, exclusive)
    return Classification(labels, scored=scored).statistics(cases, Chosen(thresholds))


def judged(cases: Sequence[LabelCase], exclusive: bool, thresholds: dict[str, float]) -> list[Figure]:
    targets, scores, names, patients = label_arrays(cases)
    if exclusive:
        numbers = np.where(np.isnan(targets).any(1), UNKNOWN, targets.argmax(1))
        return multiclass(numbers, scores, names, patients)
    return classification(targets, scores, names, patients, [*thresholds.values()], scored=["a", "c"])


def drawn_rows(cases: Sequence[LabelCase] | Sequence[MaskCase] | Sequence[NumberCase], times: np.ndarray) -> list[Any]:
    """The rows of each case ``times`` over, as cases of their own."""
    keys = list(dict.fromkeys(case.key for case in cases))
    return [
        replace(case, key=f"{key}-{n}")
        for key, count in zip(keys, times, strict=True) for n in range(count) for case in cases if case.key == key
    ]  # fmt: skip


def check_draws(
    statistics: Any, cases: Sequence[Any], figures: Callable[[list[Any]], list[Figure]], **near: Any
) -> None:
    """The statistics of every patient once, and of a draw of patients, are the figures of these rows."""
    members, row = np.unique(statistics.patients, return_inverse=True)
    count = np.random.default_rng(len(row)).multinomial(len(members), [1 / len(members)] * len(members))
    for times in (np.ones(len(row), int), count[row]):
        for figure in figures(drawn_rows(cases, times)):
            value = statistics.of[figure.key](times[None].astype(float))[0]
            assert value == pytest.approx(figure.value, nan_ok=True, **near), figure


@pytest.mark.parametrize("exclusive", [False, True])
def test_a_draw_has_the_figures_of_its_rows(exclusive: bool) -> None:
    cases, thresholds = made(exclusive), {"a": 0.3, "b": 0.42, "c": 0.25}
    statistics = of_labels(cases, exclusive, *((None, None) if exclusive else (thresholds, ("a", "c"))))
    assert {figure.key for figure in judged(cases, exclusive, thresholds)} == statistics.of.keys()
    check_draws(statistics, cases, lambda rows: judged(rows, exclusive, thresholds), abs=1e-12)


def test_a_draw_has_the_figures_of_its_masks() -> None:
    rng, cases = np.random.default_rng(0), list[MaskCase]()
    for n, patient in enumerate(PATIENTS[:30]):
        for label in NAMES:
            empty = str(rng.choice(["", "prediction", "target", "both"], p=[0.7, 0.1, 0.1, 0.1]))
            values = [*rng.random(2), float(rng.random() * 9), rng.random()] if not empty else [0.0, 0.0, np.inf, 0.0]
            values = [np.nan] * 4 if empty == "both" else values
            unit = ("mm", 2.0) if n % 3 else ("pixels", 1.0)
            present = 0 if empty in ("target", "both") else int(rng.integers(5, 9))
            predicted = 0 if empty in ("prediction", "both") else int(rng.integers(5, 9))
            dice, iou, hd95, surface = values
            cases.append(MaskCase(f"k{n:02}", patient, "test", label, empty, dice, iou, hd95, surface, unit[1], unit[0],
                                  3 if present and predicted else 0, predicted, present))  # fmt: skip
    statistics = Segmentation(dict(zip(NAMES, (1, 2, 3), strict=True))).statistics(cases, Chosen())
    check_draws(statistics, cases, segmentation, abs=1e-9)


def test_a_draw_has_the_figures_of_its_numbers() -> None:
    rng = np.random.default_rng(0)
    targets = np.stack([rng.normal(60, 12, 60), rng.normal(1e4, 3, 60)], 1)  # the mean may be large beside the spread
    predictions = targets + rng.normal(0, 2, targets.shape)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    keys = [f"k{n:02}" for n in range(60)]
    cases = image_cases(NumberCase, keys, PATIENTS, "test", ["age", "b"], targets, predictions)
    statistics = Regression(Numbers(("age", "b"))).statistics(cases, Chosen())
    check_draws(statistics, cases, lambda rows: regression(*number_arrays(rows)), rel=1e-9)


def test_numbers_that_do_not_vary_in_a_draw_have_no_r2() -> None:
    cases = image_cases(NumberCase, ["a", "b", "c"], ["a", "b", "c"], "test", ["age"], np.array([[5.3], [5.3], [7]]),
                        np.array([[5.0], [6], [7]]))  # fmt: skip
    statistics = Regression(Numbers(("age",))).statistics(cases, Chosen())
    times = np.array([[1.0, 2, 0], [1, 1, 1]])
    for metric in ("R2", "Pearson r"):
        assert np.isnan(statistics.of[metric, "age"](times)).tolist() == [True, False]
    assert statistics.of["MAE", "age"](times).tolist() == pytest.approx([(0.3 + 2 * 0.7) / 3, 1 / 3])


def test_ends_are_the_quantiles_of_draws_and_rows_of_a_patient_are_drawn_together() -> None:
    cases = made(False)

    def intervals(cases: Sequence[LabelCase]) -> dict[tuple[str, str], tuple[float, float] | None]:
        targets, scores, names, patients = label_arrays(cases)
        figures = [f for f in classification(targets, scores, names, patients) if f.key in keys]
        return {figure.key: figure.interval for figure in with_intervals(figures, of_labels(cases))}

    keys = [("AUROC", "a"), ("AUROC", MEAN)]
    ends = intervals(cases)
    targets, scores, _, patients = label_arrays(cases)
    rng, members, values = np.random.default_rng(9), sorted(set(patients)), list[float]()
    for _ in range(600):
        rows = [n for p in rng.choice(members, len(members)) for n, of in enumerate(patients) if of == p]
        truth, score = targets[rows, 0], scores[rows, 0]
        pairs = score[truth == 1][:, None] - score[truth == 0][None]
        values.append(float(np.mean((pairs > 0) + 0.5 * (pairs == 0))))
    np.testing.assert_allclose(ends["AUROC", "a"] or (), np.quantile(values, [0.025, 0.975]), atol=0.03)
    assert ends == intervals(cases)
    few = [replace(case, patient=case.patient[:2]) for case in cases]  # p0 to p9, of which each has some
    assert intervals(few)["AUROC", "a"] is not None
    fewer = [case for case in few if case.patient != "p9"]
    assert intervals(fewer)["AUROC", "a"] is None


def test_a_draw_without_both_classes_has_no_figure() -> None:
    """Accuracy and calibration have none either."""
    cases, thresholds = made(False), {"a": 0.3, "b": 0.42, "c": 0.25}
    statistics = of_labels(cases, False, thresholds)
    targets = label_arrays(cases)[0]
    times = (targets[:, 0] == 1).astype(int)
    figures = judged([c for c in drawn_rows(cases, times) if isinstance(c, LabelCase)], False, thresholds)
    for figure in figures:
        if figure.name == "a":
            assert np.isnan(figure.value) and np.isnan(statistics.of[figure.metric, "a"](times[None].astype(float))[0])
