"""The table of a sweep's fine-tuning runs, of made-up results, by plain sums of numpy."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from finetune.conftest import TINY
from omegaconf import OmegaConf
from recorded import derived
from scipy import stats
from sweep.made_up_sweep import begin

from dira_scale.base.config.compose import compose
from dira_scale.dataset.metrics.cases import LabelCase, MaskCase, write_cases
from dira_scale.dataset.metrics.figure import Figure
from dira_scale.judge.evaluation.comparison import NOTES, compared
from dira_scale.judge.evaluation.encoders import common_name, shown_name
from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.results import write_results
from dira_scale.train.runs.description import FILE

PATIENTS = 12
Cases = list[LabelCase] | list[MaskCase]


class Runs:
    """Folders of finished runs below ``root``."""

    def __init__(self, root: Path, *task: str) -> None:
        """``task``: its words."""
        self.root = root
        words = [*TINY, "data.shards=d", *(task or ("task=labels", "task.labels=[a,b]"))]
        config: Any = OmegaConf.to_container(compose("finetune", words))
        self.config, self.description = config, derived("finetune", config)

    def run(self, name: str, init: str = "random", seed: int = 0, **recorded: Any) -> Path:
        """As it has been trained, without results. ``recorded``: of its configuration; ``data``, ``task``: in part."""
        (folder := self.root / name / "cases").mkdir(parents=True)
        config = self.config | {"datasets": [{"hash": "0", "weight": 1.0}], "init": init, "seed": seed} | recorded
        config |= {key: self.config[key] | recorded.get(key, {}) for key in ("data", "task")}
        (folder.parent / "config.yaml").write_text(yaml.safe_dump(config))
        network = replace(self.description.network, start=None if init == "random" else init)
        (folder.parent / FILE).write_text(replace(self.description, network=network).to_json())
        return folder.parent


def judged(folder: Path, cases: Cases, figures: dict[tuple[str, str], float]) -> Path:
    write_cases(folder / "cases" / "test.parquet", cases)
    shares = {metric: metric not in ("MAE", "RMSE") for metric, _ in figures}
    rows = [
        Figure(metric, name, value, 1, 0, PATIENTS, share=shares[metric]).as_json()
        for (metric, name), value in figures.items()
    ]
    content = {"step": 1, "splits": {"test": "test"}, "figures": {"test": rows}}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


def auroc(targets: np.ndarray, scores: np.ndarray) -> float:
    """The share of pairs of a positive and a negative that are in order."""
    return float((scores[targets == 1][:, None] > scores[targets == 0]).mean())


def labelled(folder: Path, draw: int, first: str = "k") -> tuple[Path, float]:
    """A run's cases of two labels, and its mean AUROC. Two images a patient; one label of the first is unknown.

    ``first``: the letter of all keys."""
    truth = np.random.default_rng(0).integers(0, 2, (2 * PATIENTS, 2)).astype(float)
    truth[0, 1] = np.nan
    scores = np.clip(np.random.default_rng(draw).random(truth.shape) * 0.7 + 0.3 * np.nan_to_num(truth), 0, 1)
    cases = [
        LabelCase(f"{first}{i:02d}", f"p{i // 2}", "test", "ab"[j], truth[i, j], scores[i, j])
        for i in range(len(truth)) for j in range(2)
    ]  # fmt: skip
    value = float(np.mean([auroc(truth[:, j], scores[:, j]) for j in range(2)]))
    return judged(folder, cases, {("AUROC", "mean"): value}), value


def masked(key: str, name: str, dice: float) -> MaskCase:
    """``dice`` 1: both masks are empty."""
    empty, value = ("both", np.nan) if dice == 1 else ("", dice)
    return MaskCase(key, key, "test", name, empty, value, 0.0, 0.0, 0.0, 2.0, "pixels", 1, 1, 1)


def test_pretraining_runs_seeds_and_patients_are_three_columns(tmp_path: Path) -> None:
    made, values, runs = Runs(tmp_path), dict[tuple[str, int], float](), []
    for number in range(2):  # pretraining that differs in its seed alone, and another one
        made.run(f"dira{number}", seed=number)
    made.run("other", data={"batch": 16})
    seeds = {"random": range(3), "dira0": range(3), "dira1": range(2), "other": range(3)}
    for init in seeds:
        start = init if init == "random" else str(tmp_path / init)
        for seed in seeds[init]:
            folder, values[init, seed] = labelled(made.run(f"{init}-{seed}", start, seed), len(values))
            runs.append(({"init": start, "seed": seed, "pretrain.seed": 0}, folder))
    again, _ = labelled(made.run("random-again", seed=0), 0)  # as for the next pretraining run of a sweep
    result = compared([*runs, ({"init": "random", "seed": 0, "pretrain.seed": 1}, again)])
    random, dira, other = result.spreads
    of = {init: [values[init, seed] for seed in seeds[init]] for init in seeds}
    names = ["init=random", "init=dira (2 runs)", f"init={tmp_path}/other"]
    assert [spread.setting for spread in result.spreads] == names
    assert {(spread.metric, spread.ddof, spread.patients, spread.left_out) for spread in result.spreads} == {
        ("AUROC mean", 1, PATIENTS, 0)
    }
    assert (random.n, dira.n, other.n) == (3, 2, 1)  # each random seed is an initialisation
    assert random.run_sd == pytest.approx(np.std(of["random"], ddof=1)) and random.seed_sd is None
    assert dira.run_sd == pytest.approx(np.std([np.mean(of["dira0"]), np.mean(of["dira1"])], ddof=1))
    squares = sum(np.var(of[init]) * len(of[init]) for init in ("dira0", "dira1"))
    assert dira.seed_sd == pytest.approx(np.sqrt(squares / (2 + 1))) and dira.results == 5
    assert (other.run_sd, other.seed_sd) == (None, pytest.approx(np.std(of["other"], ddof=1)))
    for spread, inits in zip(result.spreads, (["random"], ["dira0", "dira1"], ["other"]), strict=True):
        mean = np.mean([np.mean(of[init]) for init in inits])
        assert spread.mean == pytest.approx(mean)
        assert spread.interval is not None and spread.interval.value == pytest.approx(mean)  # of the cases
        assert spread.interval.low < mean < spread.interval.high and spread.interval.patients == PATIENTS

    over_runs, over_seeds = result.comparisons
    assert [(c.first, c.second, c.over, c.n_first, c.n_second, c.comparisons) for c in result.comparisons] == [
        (names[1], names[0], "runs", 2, 3, 1), (names[2], names[0], "seeds", 3, 3, 1)
    ]  # fmt: skip
    means = [np.mean(of["dira0"]), np.mean(of["dira1"])]
    assert over_runs.student == pytest.approx(stats.ttest_ind(means, of["random"]).pvalue)
    assert over_seeds.welch == pytest.approx(stats.ttest_ind(of["other"], of["random"], equal_var=False).pvalue)


OTHER: dict[str, tuple[str, Any, dict[str, Any]]] = {  # a key, and what a run with the second value records
    "rows": ("data.fraction", 0.1, {"data": {"fraction": 0.1}, "selection": "1"}),
    "images": ("shards.recipe.size", 64, {"datasets": [{"hash": "1", "weight": 1.0}]}),
    "task": ("task.uncertain", "ones", {"task": {"uncertain": "ones"}}),
    "test cases": ("shards.recipe.splits", "other", {}),
}


@pytest.mark.parametrize("other", OTHER)
def test_settings_on_other_data_are_not_compared(tmp_path: Path, other: str) -> None:
    made, runs = Runs(tmp_path), []
    key, value, recorded = OTHER[other]
    for of_key, content, first in (("-", {}, "k"), (value, recorded, "t" if other == "test cases" else "k")):
        for init in ("random", "x.safetensors"):
            for seed in range(2):
                folder, _ = labelled(made.run(f"{of_key}-{init}-{seed}", init, seed, **content), seed, first)
                runs.append(({key: of_key, "init": init, "seed": seed}, folder))
    if other == "test cases":  # of random weights, equal configurations are one setting
        runs = [run for run in runs if run[0]["init"] != "random"]
    pairs = [(each.first, each.second) for each in compared(runs).comparisons]
    assert pairs == [
        (f"{key}={of_key} init=x.safetensors", f"{key}={of_key} init=random")
        for of_key in ("-", value) if other != "test cases"
    ]  # fmt: skip


def test_an_encoder_is_compared_with_encoder_and_decoder(tmp_path: Path) -> None:
    made, runs = Runs(tmp_path, "task=masks"), []
    for decoder in ("random", "pretrained"):
        for seed in range(2):
            run, dice = made.run(f"{decoder}-{seed}", "x", seed, task={"decoder": decoder}), 0.5 + seed / 10
            folder = judged(run, [masked("k", "mask", dice)], {("Dice", "mean"): dice})
            runs.append(({"init": "x", "task.decoder": decoder, "seed": seed}, folder))
    (pair,) = compared(runs).comparisons
    assert (pair.first, pair.second) == ("init=x task.decoder=pretrained", "init=x task.decoder=random")


def test_random_weights_are_one_setting_whatever_is_pretrained(tmp_path: Path) -> None:
    """The runs of each size of images, which another phase made."""
    made, runs = Runs(tmp_path), []
    for method in "ab":
        for size in (32, 64):
            for init in ("random", f"{method}.safetensors"):
                for seed in range(2):
                    run = made.run(f"{method}{size}{init}{seed}", init, seed, datasets=[{"hash": str(size)}])
                    varied = {"shards.recipe.size": size, "pretrain.method": method, "init": init, "seed": seed}
                    runs.append((varied, labelled(run, seed)[0]))
    result = compared(runs)
    random = [spread for spread in result.spreads if "random" in spread.setting]
    assert [spread.setting for spread in random] == [f"shards.recipe.size={size} init=random" for size in (32, 64)]
    assert [spread.n for spread in random] == [2, 2]
    assert len(result.comparisons) == 6  # of each size: a and b against random, and against each other


Judged = tuple[Cases, dict[tuple[str, str], float]]


def cases_of_two(probabilities: list[list[float]], targets: list[list[float]]) -> list[LabelCase]:
    return [
        LabelCase(f"k{i}", f"p{i}", "test", "ab"[j], targets[i][j], probabilities[i][j])
        for i in range(4) for j in range(2)
    ]  # fmt: skip


SCORED = cases_of_two([[0.6, 0.1], [0.7, 0.2], [0.3, 0.3], [0.4, 0.4]], [[0, 0], [0, 1], [1, 0], [1, 1]])
CLASSES = cases_of_two([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], [[1, 0], [0, 1], [0, 1], [np.nan, np.nan]])
# Of the second case, right is nowhere.
EMPTY = [masked(f"k{i}", name, dice) for i, pair in enumerate(((0.5, 0.8), (0.7, 1.0), (0.9, 0.6)))
         for name, dice in zip(("left", "right"), pair, strict=True)]  # fmt: skip

POOLED = [replace(case, overlap=1, predicted=2, present=3) for case in EMPTY]


@pytest.mark.parametrize(
    ("words", "task", "judgement"),
    [
        ([], {"scored": ["b"]}, (SCORED, {("AUROC", "mean"): 0.75})),  # of a: 0
        ([], {"exclusive": True}, (CLASSES, {("AUROC", "mean"): 1.0, ("accuracy", "all classes"): 2 / 3})),
        (["task=masks"], {}, (EMPTY, {("Dice", "mean"): 0.75})),
        (["task=masks"], {"figure": "pooled IoU"}, (POOLED, {("pooled IoU", "mean"): 0.25})),
    ],
    ids=["scored labels", "classes", "empty masks", "another figure"],
)
def test_the_interval_is_of_the_runs_figure(
    words: list[str], task: dict[str, Any], judgement: Judged, tmp_path: Path
) -> None:
    cases, expected = judgement
    folder = judged(Runs(tmp_path, *words).run("one", task=task), cases, expected)
    spreads = compared([({}, folder)]).spreads
    assert [(spread.setting, spread.metric, spread.n) for spread in spreads] == [
        ("all runs", " ".join(key), 1) for key in expected
    ]
    for spread, value in zip(spreads, expected.values(), strict=True):
        assert spread.interval is not None and (spread.mean, spread.interval.value) == pytest.approx((value, value))


def test_runs_of_other_test_cases_are_not_one_setting(tmp_path: Path) -> None:
    made = Runs(tmp_path)
    first, second = (labelled(made.run(key, seed=seed), 0, key)[0] for seed, key in enumerate("kl"))
    with pytest.raises(ValueError, match="init=random: its runs were evaluated on different test cases"):
        compared([({"init": "random"}, first), ({"init": "random"}, second)])


def test_a_sweep_writes_the_table(tmp_path: Path) -> None:
    folder, made = SweepFolder(tmp_path), Runs(tmp_path / "tune")
    for init in ("random", "w.safetensors"):
        for seed in range(2):
            run = Run("tune", f"{init}-{seed}", "finetune", [], f"tune/{init}-{seed}/output", [])
            run.varied.update({"tune.init": init, "tune.seed": seed})
            folder.add(run)
            begin(folder, run.id, "1", exit_code=0)
            labelled(made.run(f"{init}-{seed}/output", init, seed), 2 * seed + len(init))
    page = re.sub(" +", " ", write_results(tmp_path).text)
    assert "4 figures of 4 of 4 runs" in page
    content = json.loads((tmp_path / "spread.json").read_text())["tune"]
    random, start = content["spreads"]
    assert [row["setting"] for row in (random, start)] == ["init=random", "init=w.safetensors"]
    assert random["interval"]["low"] < random["mean"] and random["seed_sd"] is None
    (difference,) = content["comparisons"]
    assert difference["difference"] == pytest.approx(start["mean"] - random["mean"])
    assert f"{random['mean']:.4f}" in page and f"{difference['difference']:+.4f}" in page
    assert "| setting | metric | mean | n (runs) | sd over runs (ddof 1) | sd over seeds (ddof 1) |" in page
    assert all(note in page for note in NOTES)
    (tmp_path / "tune" / "random-0" / "output" / "cases" / "test.parquet").write_bytes(b"x")
    (problem,) = write_results(tmp_path).left_out
    assert problem.startswith("tune: its runs cannot be compared: ") and "test.parquet" in problem


def test_a_sweeps_runs_are_called_by_phase_and_values(tmp_path: Path) -> None:
    names = ("moco/seed0-0123abcd", "moco/seed1-89ef4567", "pcrl/76543210", "pretrain/small-seed2-abcdef01")
    outputs = [tmp_path / name / "output" for name in names]
    for output in outputs:
        output.mkdir(parents=True)
        (output.parent / "run.json").write_text("{}")
    assert [shown_name(output) for output in outputs] == ["moco/seed0", "moco/seed1", "pcrl", "pretrain/small-seed2"]
    assert common_name(outputs[:2]) == "moco" and common_name(outputs[:1]) == "moco/seed0"
    assert common_name(outputs[3:] * 2) == "pretrain/small"
    plain = tmp_path / "alone" / "output"
    assert shown_name(plain) == "output" and common_name([tmp_path / "moco-0", tmp_path / "moco-1"]) == "moco"
