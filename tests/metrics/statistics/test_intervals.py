"""Intervals of a run's figures: a draw of patients has the figures of its rows, repeated as often as they are drawn."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from dira_scale.metrics.cases import LabelCase, MaskCase, label_arrays, label_cases
from dira_scale.metrics.classification import classification
from dira_scale.metrics.figure import MEAN, Figure
from dira_scale.metrics.multiclass import UNKNOWN, multiclass
from dira_scale.metrics.segmentation import segmentation
from dira_scale.metrics.statistics import intervals as module
from dira_scale.metrics.statistics.intervals import intervals

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
    return label_cases([f"k{n:02}" for n in range(60)], PATIENTS, "test", NAMES, targets, scores)


def judged(cases: Sequence[LabelCase], exclusive: bool, thresholds: dict[str, float]) -> list[Figure]:
    targets, scores, names, patients = label_arrays(cases)
    if exclusive:
        numbers = np.where(np.isnan(targets).any(1), UNKNOWN, targets.argmax(1))
        return multiclass(numbers, scores, names, patients)
    return classification(targets, scores, names, patients, [*thresholds.values()], scored=["a", "c"])


def drawn_rows(cases: Sequence[LabelCase] | Sequence[MaskCase], times: np.ndarray) -> list[LabelCase | MaskCase]:
    """The rows of each case ``times`` over, as cases of their own."""
    keys = list(dict.fromkeys(case.key for case in cases))
    return [
        replace(case, key=f"{key}-{n}")
        for key, count in zip(keys, times, strict=True) for n in range(count) for case in cases if case.key == key
    ]  # fmt: skip


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_draw_has_torchmetrics_figures_of_its_rows(exclusive: bool, seed: int) -> None:
    cases, thresholds = made(exclusive), {"a": 0.3, "b": 0.42, "c": 0.25}
    asked = (None, None) if exclusive else (thresholds, ["a", "c"])
    statistics, patients = module._of_labels(cases, exclusive, *asked)
    members, row = np.unique(patients, return_inverse=True)
    count = np.random.default_rng(seed).multinomial(len(members), [1 / len(members)] * len(members))
    for times in (np.ones(60, int), count[row]):
        repeated = [case for case in drawn_rows(cases, times) if isinstance(case, LabelCase)]
        figures = judged(repeated, exclusive, thresholds)
        assert {(f.metric, f.name) for f in figures} == statistics.keys()
        for figure in figures:
            value = statistics[figure.metric, figure.name](times[None].astype(float))[0]
            assert value == pytest.approx(figure.value, abs=2e-6, nan_ok=True), figure


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
    keys = [(figure.metric, figure.name) for figure in segmentation(cases)]
    statistics, patients = module._of_masks(cases, keys)
    for times in (np.ones(30, int), rng.integers(0, 3, 15)[np.unique(patients, return_inverse=True)[1]]):
        repeated = [case for case in drawn_rows(cases, times) if isinstance(case, MaskCase)]
        for figure in segmentation(repeated):
            value = statistics[figure.metric, figure.name](times[None].astype(float))[0]
            assert value == pytest.approx(figure.value, abs=1e-9, nan_ok=True), figure


def test_ends_are_the_quantiles_of_draws_and_rows_of_a_patient_are_drawn_together() -> None:
    cases = made(False)
    keys = [("AUROC", "a"), ("AUROC", MEAN)]
    ends = intervals(cases, keys)
    targets, scores, _, patients = label_arrays(cases)
    rng, members, values = np.random.default_rng(9), sorted(set(patients)), list[float]()
    for _ in range(600):
        rows = [n for p in rng.choice(members, len(members)) for n, of in enumerate(patients) if of == p]
        truth, score = targets[rows, 0], scores[rows, 0]
        pairs = score[truth == 1][:, None] - score[truth == 0][None]
        values.append(float(np.mean((pairs > 0) + 0.5 * (pairs == 0))))
    np.testing.assert_allclose(ends["AUROC", "a"], np.quantile(values, [0.025, 0.975]), atol=0.03)
    assert ends == intervals(cases, keys)
    few = [replace(case, patient=case.patient[:2]) for case in cases]  # p0 to p9, of which each has some
    assert np.isfinite(intervals(few, keys)["AUROC", "a"]).all()
    fewer = [case for case in few if case.patient != "p9"]
    assert np.isnan(intervals(fewer, keys)["AUROC", "a"]).all()


def test_a_draw_without_both_classes_has_no_figure() -> None:
    """As torchmetrics' figures have it: of accuracy and calibration, too."""
    cases, thresholds = made(False), {"a": 0.3, "b": 0.42, "c": 0.25}
    statistics, _ = module._of_labels(cases, False, thresholds, None)
    targets = label_arrays(cases)[0]
    times = (targets[:, 0] == 1).astype(int)
    figures = judged([c for c in drawn_rows(cases, times) if isinstance(c, LabelCase)], False, thresholds)
    for figure in figures:
        if figure.name == "a":
            assert np.isnan(figure.value) and np.isnan(statistics[figure.metric, "a"](times[None].astype(float))[0])
