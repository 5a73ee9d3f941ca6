"""The probes against slow, obvious versions: pair counts, one fit at a time, patients by hand."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

from dira_scale.dataset.metrics.classification import ACCURACY, AUROC
from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.judge.pages.probe_figures import (
    Features,
    Fit,
    as_json,
    by_label,
    figures,
    markdown,
    overviews,
    rich_table,
)
from dira_scale.probe.probing import (
    PARTS,
    Parts,
    ProbeTask,
    _accuracy,
    figures_of,
    knn_probe,
    linear_probe,
    standardise,
)

GRID = (0.0001, 0.01, 1.0, 100.0)


def pairs(scores: np.ndarray, truth: np.ndarray) -> float:
    """The share of pairs of a positive and a negative that are in the right order; equal ones count one half."""
    order = [(p > n) + 0.5 * (p == n) for p in scores[truth == 1] for n in scores[truth == 0]]
    return float(np.mean(order))


def task(labels: Parts, names: tuple[str, ...] = ("a",)) -> ProbeTask:
    return ProbeTask(names, labels, {part: np.arange(len(values)).astype(str) for part, values in labels.items()})


def areas(fit: Fit) -> np.ndarray:
    """Return the areas of the labels, in their order."""
    return np.array([figure.value for figure in fit.figures.values() if figure.name != MEAN])


def gaussian(seed: int, signal: float, n: int = 60, width: int = 12, label_count: int = 1) -> tuple[Parts, Parts]:
    """Noise whose first columns are shifted by the labels."""
    rng = np.random.default_rng(seed)
    labels = {part: rng.integers(0, 2, (n, label_count)).astype(float) for part in PARTS}
    features = {part: rng.normal(size=(n, width)) for part in PARTS}
    for part in PARTS:
        features[part][:, :label_count] += signal * labels[part]
    return features, labels


def fit(features: Parts, labels: Parts, c: float) -> tuple[float, float]:
    """AUC on validation and test part of C · sum of log(1 + e^(-y (w·x + b))) + |w|²/2 at its minimum, float64."""
    x, y = (torch.as_tensor(values) for values in (features["train"], 2 * labels["train"][:, 0] - 1))
    w, b = torch.zeros(x.shape[1], dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    w.requires_grad_(), b.requires_grad_()
    solver = torch.optim.LBFGS(
        [w, b], max_iter=5000, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def objective() -> torch.Tensor:
        solver.zero_grad()
        loss = c * torch.nn.functional.softplus(-y * (x @ w + b)).sum() + w.square().sum() / 2
        loss.backward()
        return loss

    solver.step(objective)
    assert w.grad.abs().max() < 1e-6 * max(1, c)
    return tuple(pairs(features[part] @ w.detach().numpy(), labels[part][:, 0]) for part in ("val", "test"))


@pytest.mark.parametrize("seed", range(4))
def test_c_is_the_best_on_validation_and_the_area_is_the_share_of_ordered_pairs(seed: int) -> None:
    features, labels = gaussian(seed, signal=0.8)
    by_c = {c: fit(features, labels, c) for c in GRID}
    on_val = [by_c[c][0] for c in GRID]
    fitted = linear_probe(features, task(labels), np.arange(60), GRID)
    assert fitted.chosen["a"] == GRID[int(np.argmax(on_val))] and fitted.unfinished == 0
    assert areas(fitted)[0] == pytest.approx(by_c[fitted.chosen["a"]][1], abs=2e-3)  # a warm start ends elsewhere


def test_the_validation_part_decides_and_the_test_part_does_not() -> None:
    features, labels = gaussian(1, signal=0.8)
    chosen = linear_probe(features, task(labels), np.arange(60), GRID).chosen
    flipped = labels | {"val": 1 - labels["val"]}
    assert linear_probe(features, task(flipped), np.arange(60), GRID).chosen != chosen
    turned = linear_probe(features, task(labels | {"test": 1 - labels["test"]}), np.arange(60), GRID)
    assert turned.chosen == chosen
    assert areas(turned) == pytest.approx(1 - areas(linear_probe(features, task(labels), np.arange(60), GRID)))


def test_separable_features_are_separated_whatever_else_is_unknown() -> None:
    features, labels = gaussian(0, signal=8.0, label_count=2)
    names = ("a", "b")
    labels["train"][:20, 0] = np.nan
    features["train"][:20, 0] = 1e3  # would spoil the fit
    labels["test"][40:, 1] = np.nan
    found = linear_probe(features, task(labels, names), np.arange(60), GRID)
    np.testing.assert_allclose(areas(found), 1.0, atol=1e-3)
    assert set(found.chosen.values()) == {GRID[0]}  # all separate the validation part: the smallest is taken
    kept = {**features, "train": features["train"][20:]}, {**labels, "train": labels["train"][20:]}
    of_kept = linear_probe(kept[0], task(kept[1], names), np.arange(40), GRID)
    np.testing.assert_allclose(areas(of_kept)[0], areas(found)[0])


def test_a_draw_of_one_class_has_no_figure() -> None:
    features, labels = gaussian(0, signal=1.0, label_count=2)
    drawn = np.flatnonzero(labels["train"][:, 1] == 0)
    for fitted in (
        linear_probe(features, task(labels, ("a", "b")), drawn, GRID),
        knn_probe(features, task(labels, ("a", "b")), drawn, 5),
    ):
        assert not np.isnan(areas(fitted)[0]) and np.isnan(areas(fitted)[1]) and "b" not in fitted.chosen
        assert fitted.figures[AUROC, MEAN].value == areas(fitted)[0]
        assert fitted.figures[AUROC, "b"].n == 60 and fitted.figures[AUROC, MEAN].left_out == 1


def test_features_are_standardised_by_the_train_part_alone() -> None:
    features, _ = gaussian(0, signal=0.0)
    features["train"][:, 3] = 7.0
    shifted = features | {"test": features["test"] + 5}
    ready, moved = standardise(features), standardise(shifted)
    np.testing.assert_allclose(ready["train"].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(np.delete(ready["train"].std(0), 3), 1)
    assert not ready["test"][:, 3].any()  # constant in training: nothing to learn from
    np.testing.assert_array_equal(moved["train"], ready["train"])
    np.testing.assert_array_equal(moved["val"], ready["val"])


def fitted(*areas: float, chosen: dict[str, float] | None = None) -> Fit:
    """Return a fit with the areas of the mean, and of the labels a, b, ..."""
    names = [MEAN, *"abcd"]
    made = [Figure(AUROC, name, area, 9, 0, 9, share=True) for name, area in zip(names, areas, strict=False)]
    return Fit({figure.key: figure for figure in made}, chosen or {})


def test_the_spread_is_over_encoders_where_there_are_several_else_over_draws() -> None:
    source = Features("mine", "run", "5", 8, [{}, {}])
    nan = np.nan
    one = {("knn", 0.1): [fitted(0.6, 0.5, 0.7), fitted(0.7, 0.7, nan), fitted(0.75, 0.6, 0.9)]}
    two = {("knn", 0.1): [fitted(0.7, 0.7, 0.7), fitted(0.9, 0.9, nan), fitted(0.65, 0.8, 0.5)]}
    mean, a, b = figures(source, [one, two], {0.1: 6.0})
    assert (mean.label, mean.spread.mean) == (MEAN, pytest.approx(np.mean([0.6, 0.7, 0.75, 0.7, 0.9, 0.65])))
    assert (a.label, a.spread.mean, a.spread.n, a.spread.results) == ("a", pytest.approx(0.7), 2, 6)
    assert a.spread.run_sd == pytest.approx(np.std([0.6, 0.8], ddof=1)) and a.text() == "70.0 ± 14.1"
    assert (b.spread.mean, b.spread.left_out) == (pytest.approx(0.7), 2)
    assert b.values == [[0.7, 0.9], [0.7, 0.5]]
    (alone,) = [figure for figure in figures(source, [one], {0.1: 6.0}) if figure.label == "a"]
    assert alone.spread.run_sd is None and alone.spread.seed_sd == pytest.approx(np.std([0.5, 0.7, 0.6], ddof=1))
    assert alone.text() == "60.0 ± 10.0"
    title, cells = overviews([mean, a, b])[0]
    assert cells[1] == ["mine", "5", "2", mean.text()] and "knn @ 10 % (6)" in markdown(title, cells)


def test_the_c_of_a_draw_without_a_figure_is_not_told() -> None:
    draws = [fitted(0.5, 0.5, chosen={"a": 0.1}), fitted(np.nan, np.nan)]
    (_, a) = figures(Features("mine", "run", "5", 8, [{}]), [{("linear", 0.1): draws}], {0.1: 6.0})
    assert (a.values, a.chosen) == ([[0.5]], [[0.1]])
    json.dumps(as_json([a]), allow_nan=False)


def test_a_narrow_terminal_folds_names_and_cuts_none() -> None:
    names = ["dira_moco_of_all_radiographs_1", "dira_moco_of_all_radiographs_2"]
    cells = [["encoder", *("linear @ 100 % (60)" for _ in range(6))], *([name, *["71.6 ± 14.3"] * 6] for name in names)]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table("mean", cells))
    text = console.export_text()
    first = "".join(line.split("│")[1].strip() for line in text.splitlines() if line.startswith("│"))
    assert first == "".join(names) and "…" not in text


def test_classes_are_scored_one_against_the_rest_and_by_the_highest_score() -> None:
    """Against scikit-learn's own classifier of several classes, with the same C for all; neighbours by their votes."""
    rng = np.random.default_rng(3)
    truth = {part: rng.integers(0, 3, 90) for part in PARTS}
    features = {part: rng.normal(size=(90, 6)) + 1.2 * np.eye(6)[truth[part]] for part in PARTS}
    labels = {part: np.eye(3)[truth[part]] for part in PARTS}
    labels["test"][:5] = np.nan  # unknown
    own = ProbeTask(
        ("g: a", "g: b", "g: c"), labels, {part: np.arange(90).astype(str) for part in PARTS}, {"g": [0, 1, 2]}
    )
    fitted = linear_probe(features, own, np.arange(90), [0.1])
    reference = OneVsRestClassifier(LogisticRegression(C=0.1, max_iter=1000)).fit(features["train"], truth["train"])
    accuracy = reference.score(features["test"][5:], truth["test"][5:])
    assert fitted.figures[ACCURACY, "g"].value == accuracy and fitted.figures[ACCURACY, "g"].n == 85
    scores = reference.decision_function(features["test"][5:])
    for n, name in enumerate(own.names):
        area = pairs(scores[:, n], labels["test"][5:, n])
        assert fitted.figures[AUROC, name].value == pytest.approx(area, abs=1e-3)
    near = knn_probe(standardise(features), own, np.arange(90), k=1).figures[ACCURACY, "g"].value
    ready = standardise(features)
    unit = {part: values / np.linalg.norm(values, axis=1, keepdims=True) for part, values in ready.items()}
    nearest = truth["train"][(unit["test"][5:] @ unit["train"].T).argmax(1)]
    assert near == (nearest == truth["test"][5:]).mean()

    of_classes = np.mean([fitted.figures[AUROC, name].value for name in own.names])
    found = figures(Features("net", "run", "last", 6, [{}]), [{("linear", 1.0): [fitted]}], {1.0: 90.0})
    assert [(f.metric, f.label) for f in found] == [
        (AUROC, MEAN), (AUROC, "g"), (ACCURACY, "g"), (AUROC, "g: a"), (AUROC, "g: b"), (AUROC, "g: c")
    ]  # fmt: skip
    assert found[0].spread.mean == pytest.approx(of_classes) == found[1].spread.mean
    assert found[2].values == [[accuracy]] and found[2].text() == f"{100 * accuracy:.1f}"
    ((title, _),), ((_, lines),) = overviews(found), by_label(found, "linear")
    names = ["label", "g", "g: accuracy", "g: a", "g: b", "g: c"]
    assert title == "mean AUROC of g" and [line[0] for line in lines] == names


def test_accuracy_is_of_images_of_the_kept_classes() -> None:
    """Six test images, two of a class that is left out; of the others three get their own class."""
    truth = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0], [0, 0], [np.nan, np.nan]])
    scores = np.array([[2, 1], [1, 2], [1, 2], [0, 3], [1, 0], [0, 1], [1, 0]], float)
    assert _accuracy(truth, scores) == 3 / 4
    assert np.isnan(_accuracy(truth[:, :1], scores[:, :1]))  # the answer is certain
    assert np.isnan(_accuracy(truth, np.where([True, False], scores, np.nan)))


def test_a_label_of_classes_counts_once_in_the_mean() -> None:
    names, rng = ("a", "g: x", "g: y", "g: z"), np.random.default_rng(0)
    grade, flag = rng.integers(0, 3, 40), rng.integers(0, 2, 40)
    truth, answers = np.column_stack([flag, np.eye(3)[grade]]), rng.random((40, 4))
    patients = {part: np.arange(40).astype(str) for part in PARTS}
    own = ProbeTask(names, dict.fromkeys(PARTS, truth), patients, {"g": [1, 2, 3]})
    found = figures_of(own, answers, np.ones(4, bool))
    each = [pairs(answers[:, i], truth[:, i]) for i in range(4)]
    assert found[AUROC, MEAN].value == pytest.approx((each[0] + np.mean(each[1:])) / 2)
    assert found[AUROC, "g"].value == pytest.approx(np.mean(each[1:]))
    made = figures(Features("net", "run", "last", 6, [{}]), [{("knn", 1.0): [Fit(found)]}], {1.0: 4.0})
    assert overviews(made)[0][0] == "mean AUROC of 2 labels"
