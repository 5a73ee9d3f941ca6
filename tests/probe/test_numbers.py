"""Labels that are numbers, against slow, obvious versions: normal equations, loops over neighbours, plain formulas."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest.info import as_flags, flags_of
from dira_scale.dataset.metrics.classification import AUROC
from dira_scale.dataset.metrics.figure import MEAN, Figure
from dira_scale.dataset.metrics.regression import MAE, PEARSON, R2
from dira_scale.judge.pages.probe_figures import (
    FILE,
    FORMAT,
    Features,
    Fit,
    as_json,
    by_label,
    figures,
    overviews,
    read_probe,
)
from dira_scale.probe.comparison import _tasks
from dira_scale.probe.probing import (
    PARTS,
    RATES,
    Parts,
    ProbeTask,
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


def value(fit: Fit, metric: str = R2, name: str = "age") -> float:
    return fit.figures[metric, name].value


@pytest.mark.parametrize("seed", range(3))
def test_ridge_is_that_of_the_normal_equations_and_validation_decides_on_its_strength(seed: int) -> None:
    features, ages = planted(seed, noise=12.0, width=60)
    drawn = np.random.default_rng(seed).permutation(N)[:80]
    ages[0, drawn[:10]] = ages[2, :7] = np.nan
    known = drawn[10:]
    found = {c: ridge(features["train"][known], ages[0, known], c, features["val"], features["test"][7:]) for c in GRID}
    best = max(GRID, key=lambda c: explained(ages[1], found[c][0]))
    fitted = linear_probe(features, numbers(ages), drawn, GRID)
    assert fitted.chosen == {"age": best} and fitted.unfinished == 0 and len(fitted.figures) == 3
    truth, answers = ages[2, 7:], found[best][1]
    assert value(fitted) == pytest.approx(explained(truth, answers))
    assert value(fitted, MAE) == pytest.approx(np.mean([abs(t - a) for t, a in zip(truth, answers, strict=True)]))
    assert value(fitted, PEARSON) == pytest.approx(correlation(truth, answers))
    assert [figure.share for figure in fitted.figures.values()] == [True, False, False]


def test_neighbours_answer_with_their_weighted_mean() -> None:
    features, ages = planted(0)
    ages = np.stack([ages, ages**2], axis=-1)
    ages[0, ::3, 1] = np.nan  # unknown neighbours do not count: the next ones do
    drawn = np.arange(0, N, 2)
    fitted = knn_probe(features, numbers(ages, ("age", "square")), drawn, k=5)
    unit = {part: values / np.linalg.norm(values, axis=1, keepdims=True) for part, values in features.items()}
    for label, name in enumerate(("age", "square")):
        voters = [row for row in drawn if not np.isnan(ages[0, row, label])]
        answers = []
        for query in unit["test"]:
            near = sorted(((float(query @ unit["train"][row]), row) for row in voters), reverse=True)[:5]
            weights = [np.exp(similarity / 0.07) for similarity, _ in near]
            values = [ages[0, row, label] for _, row in near]
            answers.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
        truth = ages[2, :, label]
        assert value(fitted, R2, name) == pytest.approx(explained(truth, answers), abs=1e-4)
        assert value(fitted, MAE, name) == pytest.approx(np.abs(truth - answers).mean(), rel=1e-4)


def probed(features: Parts, ages: np.ndarray) -> dict[str, Fit]:
    found = probe(features, numbers(ages), {1.0: [np.arange(N)]}, GRID, 20, ("linear", "knn", "sgd"))
    return {name: fitted for (name, _), (fitted,) in found.items()}


def test_a_planted_relation_is_found_and_permuted_values_explain_nothing() -> None:
    features, ages = planted(1)
    found = {name: value(fitted) for name, fitted in probed(features, ages).items()}
    assert found["linear"] > 0.95 and found["sgd"] > 0.95 and found["knn"] > 0.3
    rng = np.random.default_rng(0)
    for fitted in probed(features, np.stack([rng.permutation(values) for values in ages])).values():
        assert value(fitted) < 0.05


def test_the_unit_changes_the_error_alone() -> None:
    features, ages = planted(2, noise=5.0)
    days = probed(features, 365 * ages - 1e4)
    for name, fitted in probed(features, ages).items():
        for metric in (R2, PEARSON):
            assert value(days[name], metric) == pytest.approx(value(fitted, metric), abs=1e-4)
        assert value(days[name], MAE) == pytest.approx(365 * value(fitted, MAE), rel=1e-4)
        assert days[name].chosen == fitted.chosen


def test_a_rate_that_diverges_is_not_chosen() -> None:
    features, ages = planted(3)
    fitted = sgd_probe({part: 12 * values for part, values in features.items()}, numbers(ages), np.arange(N))
    assert fitted.chosen["age"] < RATES[-1] and value(fitted) > 0.9


def test_a_draw_of_one_value_has_no_figure() -> None:
    features, ages = planted(4)
    ages[0, :20], ages[0, 20:30] = 44, np.nan
    for drawn in (np.arange(30), np.arange(20, 30)):
        for fitted in (
            linear_probe(features, numbers(ages), drawn, GRID),
            knn_probe(features, numbers(ages), drawn, 5),
            sgd_probe(features, numbers(ages), drawn),
        ):
            assert np.isnan([value(fitted, metric) for metric in (R2, MAE, PEARSON)]).all() and not fitted.chosen


def test_equal_answers_have_an_error_and_no_correlation() -> None:
    _, ages = planted(5)
    fitted = linear_probe({part: np.zeros((N, 3)) for part in PARTS}, numbers(ages), np.arange(N), GRID)
    assert value(fitted) == pytest.approx(explained(ages[2], np.full(N, ages[0].mean()))) and -0.1 < value(fitted) < 0
    assert value(fitted, MAE) == pytest.approx(np.abs(ages[2] - ages[0].mean()).mean())
    assert np.isnan(value(fitted, PEARSON))


SOURCE = Features("net", "run", "last", 6, [{}])


def of_numbers(r2: float, mae: float, pearson: float, c: float) -> Fit:
    """Return a fit of the number age; another number, ef, has no figure."""
    found = {R2: r2, MAE: mae, PEARSON: pearson}
    made = [
        Figure(metric, name, v if name == "age" else np.nan, 9, 0, 9, share=metric == R2)
        for name in ("age", "ef") for metric, v in found.items()
    ]  # fmt: skip
    return Fit({figure.key: figure for figure in made}, {"age": c})


def test_rows_and_tables_keep_numbers_apart_from_areas(tmp_path: Path) -> None:
    draws = [of_numbers(0.25, 5.0, 0.5, 1.0), of_numbers(-0.15, 7.5, 0.5, 1.0)]
    found = figures(SOURCE, [{("linear", 0.1): draws}], {0.1: 6.0})
    rows = {(row["metric"], row["label"]): row for row in as_json(found)}
    assert [*rows] == [(metric, name) for name in ("age", "ef") for metric in (R2, MAE, PEARSON)]
    spread = rows[R2, "age"]["spread"]
    assert spread["mean"] == pytest.approx(0.05) and spread["seed_sd"] == pytest.approx(np.std([0.25, -0.15], ddof=1))
    assert (spread["share"], spread["n"], spread["results"], rows[R2, "age"]["chosen"]) == (True, 1, 2, [[1.0, 1.0]])
    assert rows[MAE, "age"]["spread"]["mean"] == 6.25 and rows[PEARSON, "age"]["values"] == [[0.5, 0.5]]
    assert rows[R2, "ef"]["spread"]["mean"] is None and rows[R2, "ef"]["values"] == [[]]
    assert [title for title, _ in overviews(found)] == ["R2 of age", "R2 of ef"]

    areas = [Fit({(AUROC, n): Figure(AUROC, n, v, 9, 0, 9, share=True) for n in (MEAN, "sick")}) for v in (0.5, 0.75)]
    flags = figures(SOURCE, [{("linear", 0.1): areas}], {0.1: 6.0})
    both = [*flags, *found]
    (title, cells), *others = overviews(both)
    assert title == "mean AUROC of sick" and cells[1] == ["net", "last", "1", "62.5 ± 17.7"]
    assert others == overviews(found) and others[0][1][1] == ["net", "last", "1", "5.0 ± 28.3"]
    ((title, lines),) = by_label(both, "linear")
    assert title == "linear @ 10 % (6): numbers" and lines[1:4] == [
        ["age: R2", "5.0 ± 28.3"], ["age: MAE", "6.25"], ["age: Pearson r", "0.50"]
    ]  # fmt: skip

    content = {"format": FORMAT, "compared": [vars(SOURCE)], "figures": as_json(both)}
    (tmp_path / FILE).write_text(json.dumps(content, allow_nan=False))
    read = read_probe(tmp_path)["figures"]
    assert as_json(read) == as_json(both) and read[0] == flags[0]


def test_figures_of_before_are_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"compared": [], "figures": [{"label": "sick", "auc": 71.5}]}))
    with pytest.raises(UserError, match=r"probe.json is of format 1, this dira_scale reads 2: run the probe again$"):
        read_probe(tmp_path)


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
    assert (flags.metric, ages.metric, ages.names, ages.classes) == (AUROC, R2, ("age",), {})
    np.testing.assert_array_equal(flags.labels["train"][:, :2], [[0, 1], [1, nan], [nan, 0], [nan, nan]])
    np.testing.assert_array_equal(ages.labels["train"][:, 0], [0, 1, -1, nan])
    np.testing.assert_array_equal(ages.labels["test"][:, 0], [64.5, nan, 1])
    (only,), _ = _tasks(dataset, dataset.rows, ["age"])  # type: ignore[arg-type]
    assert only.metric == R2
    with pytest.raises(UserError, match=r"needs two different known values .*few: fewer than two different values in"):
        _tasks(dataset, dataset.rows, ["few"])  # type: ignore[arg-type]
