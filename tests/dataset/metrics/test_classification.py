"""Metrics of labels against scikit-learn and plain definitions; labels that cannot have one say NaN and are counted."""

import numpy as np
import pytest
from sklearn import metrics as sk

from dira_scale.base import errors
from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics import libraries
from dira_scale.dataset.metrics.classification import BINS, SPECIFICITY, classification
from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.dataset.metrics.multiclass import ALL, UNKNOWN, multiclass
from dira_scale.dataset.metrics.temperature import class_temperature, label_temperatures
from dira_scale.dataset.metrics.thresholds import choose_thresholds

CURVES = ("AUROC", "average precision", "calibration error", "sensitivity at specificity")
ANSWERS = ("sensitivity", "specificity", "accuracy", "balanced accuracy")


def by_name(figures: list[Figure]) -> dict[tuple[str, str], Figure]:
    assert len({(f.metric, f.name) for f in figures}) == len(figures)
    return {(figure.metric, figure.name): figure for figure in figures}


def made_up(seed: int, rows: int = 200, labels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets with unknown ones, scores with ties that say something of the targets, patients with three rows each."""
    generator = np.random.default_rng(seed)
    targets = (generator.random((rows, labels)) < 0.3).astype(float)
    scores = np.round(np.clip(0.25 * targets + 0.75 * generator.random((rows, labels)), 0, 1), 2)
    targets[generator.random((rows, labels)) < 0.2] = np.nan
    return targets, scores, np.arange(rows) // 3


def calibration_error(truth: np.ndarray, scores: np.ndarray) -> float:
    """Guo et al., eq. 3, of the positive class: bins of one width, closed below."""
    bins = np.floor(scores * BINS + 1e-9).astype(int)
    return sum(abs(truth[bins == b].mean() - scores[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))


def test_every_figure_is_that_of_scikit_learn_on_the_known_rows() -> None:
    targets, scores, patients = made_up(0)
    names, thresholds = ["a", "b", "c"], [0.3, 0.5, 0.4]
    found = by_name(classification(targets, scores, names, patients, thresholds))
    for i, name in enumerate(names):
        known = ~np.isnan(targets[:, i])
        truth, score = targets[known, i], scores[known, i]
        false_rate, recall, _ = sk.roc_curve(truth, score, drop_intermediate=False)
        answers = score >= thresholds[i]
        expected = {
            "AUROC": sk.roc_auc_score(truth, score),
            "average precision": sk.average_precision_score(truth, score),
            "calibration error": calibration_error(truth, score),
            "sensitivity at specificity": recall[1 - false_rate >= SPECIFICITY - 1e-9].max(),
            "sensitivity": sk.recall_score(truth, answers),
            "specificity": sk.recall_score(1 - truth, ~answers),
            "accuracy": sk.accuracy_score(truth, answers),
            "balanced accuracy": sk.balanced_accuracy_score(truth, answers),
        }
        for metric, value in expected.items():
            figure = found[metric, name]
            assert figure.value == pytest.approx(value, abs=1e-12), (metric, name)
            assert (figure.n, figure.left_out) == (known.sum(), (~known).sum())
            assert (figure.positives, figure.patients) == (truth.sum(), len(np.unique(patients[known])))
        assert found["sensitivity", name].convention == f"threshold={thresholds[i]:g}"
    of_two = by_name(classification(targets, scores, names, patients, thresholds, scored=["a", "c"]))
    assert of_two.keys() == found.keys()
    for counted, figures in ((names, found), (["a", "c"], of_two)):
        for metric in CURVES + ANSWERS:
            mean = figures[metric, MEAN]
            assert mean.value == pytest.approx(np.mean([found[metric, name].value for name in counted]))
            assert (mean.n, mean.left_out, mean.positives) == (len(counted), 0, None)


def test_a_label_without_positives_or_negatives_has_no_figure_and_is_counted() -> None:
    targets, scores, patients = made_up(1, labels=4)
    targets[:, 1] = np.where(np.isnan(targets[:, 1]), np.nan, 0)
    targets[:, 2] = np.where(np.isnan(targets[:, 2]), np.nan, 1)
    targets[:, 3] = np.nan
    names = ["both", "negative", "positive", "unknown"]
    figures = classification(targets, scores, names, patients, [0.5] * 4)
    for figure in figures:
        if figure.name in names[1:]:
            assert np.isnan(figure.value), figure
        elif figure.name == MEAN:
            assert (figure.n, figure.left_out) == (1, 3)
            assert figure.value == by_name(figures)[figure.metric, "both"].value
    nothing = by_name(classification(targets[:, 3:], scores[:, 3:], ["unknown"], patients))["AUROC", MEAN]
    assert np.isnan(nothing.value) and (nothing.n, nothing.left_out, nothing.patients) == (0, 1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.array([[2.0], [-1.0]])}, "not logits"),
        ({"scores": np.array([[np.nan], [0.5]])}, "not NaN"),
        ({"targets": np.array([[0.5], [1.0]])}, "0, 1 or NaN"),
        ({"targets": np.array([[0.0, 1.0]])}, "must both be"),
        ({"patients": ["p"]}, "must both be"),
    ],
)
def test_what_is_no_probability_or_target_is_refused(change: dict[str, object], message: str) -> None:
    given = {"targets": np.array([[0.0], [1.0]]), "scores": np.array([[0.2], [0.9]]), "patients": ["p", "q"]} | change
    with pytest.raises(ValueError, match=message):
        classification(given["targets"], given["scores"], ["a"], given["patients"])  # type: ignore[arg-type]


def test_thresholds_are_the_best_of_all_that_validation_offers() -> None:
    targets, scores, _ = made_up(2)
    targets[:, 2] = 0  # no positive: no threshold
    chosen = choose_thresholds(targets, scores)
    assert np.isnan(chosen[2])
    for i in range(2):
        known = ~np.isnan(targets[:, i])
        truth, score = targets[known, i] == 1, scores[known, i]
        points = []  # quality and threshold
        for threshold in [*np.unique(score), np.inf]:
            answers = score >= threshold
            points.append((answers[truth].mean() + (~answers[~truth]).mean(), threshold))
        best = max(quality for quality, _ in points)
        assert chosen[i] == max(threshold for quality, threshold in points if quality > best - 1e-6)
    assert choose_thresholds(np.array([[1.0], [0.0]]), np.array([[0.1], [1.0]])).tolist() == [np.inf]


def test_classes_against_scikit_learn() -> None:
    generator = np.random.default_rng(3)
    targets = generator.integers(0, 3, 150)
    scores = generator.dirichlet(np.ones(4), 150)
    targets[:20] = UNKNOWN
    names, known = ["a", "b", "c", "never"], targets != UNKNOWN
    found = by_name(multiclass(targets, scores, names, np.arange(150)))
    answers = scores.argmax(1)
    for i, name in enumerate(names[:3]):
        assert found["accuracy", name].value == pytest.approx((answers[targets == i] == i).mean())
        assert found["AUROC", name].value == pytest.approx(sk.roc_auc_score(targets[known] == i, scores[known, i]))
    assert np.isnan(found["accuracy", "never"].value) and np.isnan(found["AUROC", "never"].value)
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        balanced = sk.balanced_accuracy_score(targets[known], answers[known])
    assert found["balanced accuracy", ALL].value == pytest.approx(balanced)
    assert (found["balanced accuracy", ALL].n, found["balanced accuracy", ALL].left_out) == (3, 1)
    assert found["accuracy", ALL].value == pytest.approx((answers == targets)[known].mean())
    assert (found["accuracy", ALL].n, found["accuracy", ALL].left_out) == (130, 20)
    sure = calibration_error((answers == targets)[known].astype(float), scores[known].max(1))
    assert found["calibration error", ALL].value == pytest.approx(sure, abs=1e-12)
    with pytest.raises(ValueError, match="classes from 0 to 3"):
        multiclass(targets + 2, scores, names, np.arange(150))


def test_temperatures_are_those_that_the_logits_were_made_with() -> None:
    """And no other on a fine grid has a smaller cross-entropy."""
    generator = np.random.default_rng(4)
    logits = generator.normal(size=(4000, 3))
    targets = (generator.random((4000, 3)) < 1 / (1 + np.exp(-logits))).astype(float)
    logits *= np.array([1.0, 2.5, 0.4])
    targets[:100, 0], targets[:, 2] = np.nan, 0
    found = label_temperatures(targets, logits)
    assert found == pytest.approx([1.0, 2.5, 1.0], rel=0.1)
    assert found[2] == 1  # there is no positive
    grid = np.exp(np.linspace(np.log(1.5), np.log(4), 400))
    signed = np.where(targets[:, 1] == 1, logits[:, 1], -logits[:, 1])
    losses = [np.log1p(np.exp(-signed / t)).mean() for t in grid]
    assert found[1] == pytest.approx(grid[np.argmin(losses)], rel=0.005)


def test_the_temperature_of_classes() -> None:
    generator = np.random.default_rng(5)
    logits = generator.normal(size=(4000, 4))
    targets = (logits + generator.gumbel(size=logits.shape)).argmax(1)  # the largest, with the softmax's probability
    logits[:10] = 1e3
    targets[:10] = UNKNOWN
    assert class_temperature(targets, logits * 3) == pytest.approx(3, rel=0.1)
    assert class_temperature(np.zeros(4000, int), logits) == 1


def test_what_is_missing_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.require_libraries()  # the tests' environment has it
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"monai not installed.*setup/install.py .*'dira_scale\[evaluation\]'"):
        libraries.require_libraries()
