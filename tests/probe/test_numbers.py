"""Labels that are numbers, against slow, obvious versions: normal equations, loops over neighbours, plain formulas."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dira_scale.data.manifest.info import as_flags, flags_of
from dira_scale.errors import UserError
from dira_scale.evaluation.probe_figures import AUC, R2, Features, as_json, by_label, figures, from_json, overviews
from dira_scale.probe.comparison import _tasks
from dira_scale.probe.probing import (
    PARTS,
    RATES,
    Parts,
    ProbeTask,
    Score,
    knn_probe,
    linear_probe,
    probe,
    sgd_probe,
    standardise,
)

GRID = (0.0001, 0.01, 1.0, 100.0)
N = 150


def planted(seed: int, noise: float = 1.0, width: int = 10) -> tuple[Parts, np.ndarray]:
    """Features, and ages around 50 that are a sum of the first three, with noise: [N] each of train, val and test."""
    rng = np.random.default_rng(seed)
    features = standardise({part: rng.normal(size=(N, width)) for part in PARTS})
    ages = [50 + values[:, :3] @ [6, -4, 2] + noise * rng.normal(size=N) for values in features.values()]
    return features, np.stack(ages)


def numbers(ages: np.ndarray, names: tuple[str, ...] = ("age",)) -> ProbeTask:
    """``ages`` [3, n] or [3, n, L]."""
    labels = {part: values.reshape(len(values), -1) for part, values in zip(PARTS, ages, strict=True)}
    return ProbeTask(names, labels, {part: np.arange(N).astype(str) for part in PARTS}, metric=R2)


def explained(truth: np.ndarray, answers: np.ndarray) -> float:
    errors = sum((t - a) ** 2 for t, a in zip(truth, answers, strict=True))
    return 1 - errors / sum((t - sum(truth) / len(truth)) ** 2 for t in truth)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def ridge(x: np.ndarray, y: np.ndarray, c: float, *queries: np.ndarray) -> list[np.ndarray]:
    """The minimum of |z - xw - b|² + |w|²/C for y in its deviations z, by the normal equations; in y's own unit."""
    z, centre = (y - y.mean()) / y.std(), x.mean(0)
    w = np.linalg.solve((x - centre).T @ (x - centre) + np.eye(x.shape[1]) / c, (x - centre).T @ z)
    return [(q - centre) @ w * y.std() + y.mean() for q in queries]


@pytest.mark.parametrize("seed", range(3))
def test_ridge_is_that_of_the_normal_equations_and_validation_decides_on_its_strength(seed: int) -> None:
    features, ages = planted(seed, noise=12.0, width=60)
    drawn = np.random.default_rng(seed).permutation(N)[:80]
    ages[0, drawn[:10]] = ages[2, :7] = np.nan
    known = drawn[10:]
    found = {c: ridge(features["train"][known], ages[0, known], c, features["val"], features["test"][7:]) for c in GRID}
    best = max(GRID, key=lambda c: explained(ages[1], found[c][0]))
    score = linear_probe(features, numbers(ages), drawn, GRID)
    assert score.c is not None and score.mae is not None and score.pearson is not None
    assert score.c[0] == best and score.unfinished == 0 and score.accuracy == {}
    truth, answers = ages[2, 7:], found[best][1]
    assert score.value[0] == pytest.approx(explained(truth, answers))
    assert score.mae[0] == pytest.approx(np.mean([abs(t - a) for t, a in zip(truth, answers, strict=True)]))
    assert score.pearson[0] == pytest.approx(correlation(truth, answers))


def test_neighbours_answer_with_their_weighted_mean() -> None:
    features, ages = planted(0)
    ages = np.stack([ages, ages**2], axis=-1)
    ages[0, ::3, 1] = np.nan  # unknown neighbours do not count: the next ones do
    drawn = np.arange(0, N, 2)
    score = knn_probe(features, numbers(ages, ("age", "square")), drawn, k=5)
    unit = {part: values / np.linalg.norm(values, axis=1, keepdims=True) for part, values in features.items()}
    for label in range(2):
        voters = [row for row in drawn if not np.isnan(ages[0, row, label])]
        answers = []
        for query in unit["test"]:
            near = sorted(((float(query @ unit["train"][row]), row) for row in voters), reverse=True)[:5]
            weights = [np.exp(similarity / 0.07) for similarity, _ in near]
            values = [ages[0, row, label] for _, row in near]
            answers.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
        truth = ages[2, :, label]
        assert score.value[label] == pytest.approx(explained(truth, answers), abs=1e-4)
        assert score.mae is not None and score.mae[label] == pytest.approx(np.abs(truth - answers).mean(), rel=1e-4)


def probed(features: Parts, ages: np.ndarray) -> dict[str, Score]:
    found = probe(features, numbers(ages), {1.0: [np.arange(N)]}, GRID, 20, ("linear", "knn", "sgd"))
    return {name: score for (name, _), (score,) in found.items()}


def test_a_planted_relation_is_found_and_permuted_values_explain_nothing() -> None:
    features, ages = planted(1)
    found = {name: score.value[0] for name, score in probed(features, ages).items()}
    assert found["linear"] > 0.95 and found["sgd"] > 0.95 and found["knn"] > 0.3
    rng = np.random.default_rng(0)
    for score in probed(features, np.stack([rng.permutation(values) for values in ages])).values():
        assert score.value[0] < 0.05


def test_the_unit_changes_the_error_alone() -> None:
    features, ages = planted(2, noise=5.0)
    days = probed(features, 365 * ages - 1e4)
    for name, score in probed(features, ages).items():
        other = days[name]
        assert other.value == pytest.approx(score.value, abs=1e-4)
        assert other.pearson == pytest.approx(score.pearson, abs=1e-4)
        assert score.mae is not None and other.mae == pytest.approx(365 * score.mae, rel=1e-4)
        for chosen in ("c", "rate"):
            np.testing.assert_array_equal(getattr(other, chosen), getattr(score, chosen))


def test_a_rate_that_diverges_is_not_chosen() -> None:
    features, ages = planted(3)
    score = sgd_probe({part: 12 * values for part, values in features.items()}, numbers(ages), np.arange(N))
    assert score.rate is not None and score.rate[0] < RATES[-1] and score.value[0] > 0.9


def test_a_draw_of_one_value_has_no_figure() -> None:
    features, ages = planted(4)
    ages[0, :20], ages[0, 20:30] = 44, np.nan
    for drawn in (np.arange(30), np.arange(20, 30)):
        for score in (
            linear_probe(features, numbers(ages), drawn, GRID),
            knn_probe(features, numbers(ages), drawn, 5),
            sgd_probe(features, numbers(ages), drawn),
        ):
            assert np.isnan([score.value, score.mae, score.pearson]).all()  # type: ignore[list-item]


def test_equal_answers_have_an_error_and_no_correlation() -> None:
    _, ages = planted(5)
    score = linear_probe({part: np.zeros((N, 3)) for part in PARTS}, numbers(ages), np.arange(N), GRID)
    assert score.value[0] == pytest.approx(explained(ages[2], np.full(N, ages[0].mean()))) and -0.1 < score.value[0] < 0
    assert score.mae is not None and score.mae[0] == pytest.approx(np.abs(ages[2] - ages[0].mean()).mean())
    assert score.pearson is not None and np.isnan(score.pearson[0])


OF = Features("net", "run", "last", 6, [{}])


def test_rows_and_tables_keep_numbers_apart_from_areas() -> None:
    draws = [
        Score(np.array([r2, np.nan]), np.array([1.0, np.nan]), mae=np.array([mae, np.nan]),
              pearson=np.array([0.5, np.nan])) for r2, mae in ((0.25, 5.0), (-0.15, 7.5))
    ]  # fmt: skip
    found = figures(OF, [{("linear", 0.1): draws}], ["age", "ef"], {0.1: 6.0}, metric=R2)
    age, ef = as_json(found)
    assert {key: age[key] for key in ("label", "mae", "pearson", "c", "draws", "sd_over")} == {
        "label": "age", "mae": 6.25, "pearson": 0.5, "c": [[1.0, 1.0]], "draws": 2, "sd_over": "draws"
    }  # fmt: skip
    assert age["r2"] == pytest.approx(5) and age["sd"] == pytest.approx(np.std([25, -15], ddof=1))
    assert ef["r2"] is ef["mae"] is ef["pearson"] is None and ef["draws"] == 0
    assert [title for title, _ in overviews(found)] == ["R2 of age", "R2 of ef"]

    scores = [{("linear", 0.1): [Score(np.array([0.5])), Score(np.array([0.75]))]}]
    flags = figures(OF, scores, ["sick"], {0.1: 6.0})
    both = [*flags, *found]
    (areas, cells), *others = overviews(both)
    assert areas == "mean AUC of sick" and cells[1] == ["net", "last", "1", "62.5 ± 17.7"]
    assert others == overviews(found) and others[0][1][1] == ["net", "last", "1", "5.0 ± 28.3"]
    ((title, lines),) = by_label(both, "linear")
    assert title == "linear @ 10 % (6): numbers" and lines[1:4] == [
        ["age: R2", "5.0 ± 28.3"], ["age: MAE", "6.25"], ["age: Pearson r", "0.50"]
    ]  # fmt: skip

    read = from_json(json.loads(json.dumps(as_json(both), allow_nan=False)))
    assert as_json(read) == as_json(both) and [f.metric for f in read] == [AUC, AUC, R2, R2]
    assert list(as_json(flags)[0]) == [
        "encoder", "kind", "layer", "width", "probe", "fraction", "images", "label", "auc", "sd", "sd_over",
        "encoders", "draws", "values", "c", "unfinished", "accuracy", "accuracies", "rate",
    ]  # fmt: skip
    assert {*age} ^ {*as_json(flags)[0]} == {"auc", "accuracy", "accuracies", "r2", "mae", "pearson"}


class Labels:
    """A dataset of labels alone, [n, L] in each part."""

    root = Path("/toy")

    def __init__(self, values: Parts, names: list[str], classes: dict[str, list[str]]) -> None:
        self.values, flags = np.concatenate([*values.values()]).astype(np.float32), flags_of(names, classes)
        self.info = SimpleNamespace(label_names=names, flags=flags)
        ends = np.cumsum([len(part) for part in values.values()])
        self.rows = {part: np.arange(end - len(values[part]), end) for part, end in zip(values, ends, strict=True)}

    def flags(self, rows: np.ndarray) -> np.ndarray:
        return as_flags(self.values[rows], self.info.flags)

    def column(self, name: str) -> np.ndarray:
        return np.arange(len(self.values))


def test_a_label_is_a_number_if_any_part_has_another_value_than_0_1_and_minus_1() -> None:
    nan, inf = np.nan, np.inf
    names = ["flag", "age", "uncertain", "grade", "alone", "few"]
    values = {
        "train": np.array([[0, 0, 1, 2, 3, 7], [1, 1, -1, 0, 4, 7], [nan, -1, 0, 1, 5, nan], [inf, inf, nan, 2, 1, 7]]),
        "val": np.array([[0, 0, 0, 2, 6, 1], [1, 1, 1, 0, 6, 2]]),
        "test": np.array([[0, 64.5, 0, 2, 1, 3], [1, nan, 1, 1, 0, 4], [1, 1, 1, 0, nan, 5]]),
    }
    dataset = Labels(values, names, {"grade": ["a", "b", "c"]})
    (flags, ages), left_out = _tasks(dataset, dataset.rows, None)  # type: ignore[arg-type]
    assert left_out == {
        "grade: b": "one class only in val",
        "alone": "fewer than two different values in val",
        "few": "fewer than two different values in train",
    }
    assert flags.names == ("flag", "uncertain", "grade: a", "grade: c") and flags.classes == {"grade": [2, 3]}
    assert (flags.metric, ages.metric, ages.names, ages.classes) == (AUC, R2, ("age",), {})
    np.testing.assert_array_equal(flags.labels["train"][:, :2], [[0, 1], [1, nan], [nan, 0], [nan, nan]])
    np.testing.assert_array_equal(ages.labels["train"][:, 0], [0, 1, -1, nan])
    np.testing.assert_array_equal(ages.labels["test"][:, 0], [64.5, nan, 1])
    (only,), _ = _tasks(dataset, dataset.rows, ["age"])  # type: ignore[arg-type]
    assert only.metric == R2
    with pytest.raises(UserError, match=r"needs two different known values .*few: fewer than two different values in"):
        _tasks(dataset, dataset.rows, ["few"])  # type: ignore[arg-type]
