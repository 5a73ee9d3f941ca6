"""``finetune task=regression``: numbers from shards to figures, predictions and exports."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataset.conftest import make_dataset
from finetune.conftest import TINY
from harness import rows
from scipy.stats import pearsonr

from dira_scale.api import export
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import number_arrays, read_cases
from dira_scale.finetune import main
from dira_scale.judge.evaluation.comparison import compared
from dira_scale.judge.tasks.regression import Regression, normalisation
from dira_scale.judge.tasks.task import identity
from dira_scale.localize import main as localize
from dira_scale.predict import main as predict
from dira_scale.report import main as report
from dira_scale.train.data.numbers import Numbers
from dira_scale.train.runs.description import read_description

__all__ = ["make_dataset"]
NAN = float("nan")
SPLITS = ["train"] * 48 + ["val"] * 24 + ["test"] * 24


@pytest.fixture
def sized(make_dataset: Callable[..., ShardedDataset]) -> Path:
    """Discs; ``width`` is their diameter in made-up units, unknown of every sixth, ``dark`` how dark they are."""
    pytest.importorskip("monai")
    generator = np.random.default_rng(0)
    images, labels, (y, x) = [], [], np.mgrid[:40, :48]
    for number, split in enumerate(SPLITS):
        radius, grey = generator.integers(4, 19), generator.integers(100, 250)
        image = generator.integers(0, 60, (40, 48)).astype(np.uint8)
        image[(y - 20) ** 2 + (x - 24) ** 2 < radius**2] = grey
        images.append(image)
        labels.append([NAN if split == "train" and number % 6 == 0 else 1000 + 20.0 * radius, (250 - grey) / 1000])
    names = [f"p{number // 2}" for number in range(len(SPLITS))]
    return make_dataset(images, label_names=("width", "dark"), labels=labels, splits=SPLITS, patients=names).root


def finetune(run: Path, shards: Path, *words: str) -> int:
    rate = "optim.optimizer.lr=3e-3", "stages.finetune.epochs=14", "views.flip=0.5"
    return main([*TINY, "task=regression", f"data.shards={shards}", f"run={run}", *rate, *words])


def test_losses_are_means_over_what_is_known_of_normalised_numbers() -> None:
    task = Regression(Numbers(("a", "b")), {"a": (50.0, 10.0), "b": (0.5, 0.25)})
    logits, targets = torch.tensor([[0.5, 1.0], [-1.0, 2.0]]), torch.tensor([[60.0, NAN], [45.0, 0.75]])
    errors = [0.5 - 1, -1 + 0.5, 2 - 1]
    losses = task.terms(logits, targets, identity)
    assert float(losses["mse"]) == pytest.approx(sum(error**2 for error in errors) / 3)
    assert float(losses["mae"]) == pytest.approx(sum(map(abs, errors)) / 3)
    np.testing.assert_allclose(task.predicted(logits), [[55, 0.75], [40, 1.0]])
    nothing = task.terms(logits.requires_grad_(), torch.full((2, 2), NAN), identity)["mse"]
    nothing.backward()
    assert nothing.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_the_normalisation_is_of_what_is_known() -> None:
    pairs = normalisation(torch.tensor([[1.0, NAN], [3.0, 2.0], [NAN, 4.0], [8.0, NAN]]), ["a", "b"])
    assert pairs == {"a": (4.0, pytest.approx(math.sqrt((9 + 1 + 16) / 3))), "b": (3.0, 1.0)}


@pytest.mark.system
def test_a_run_from_shards_to_figures_and_predictions(
    sized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures are those of the cases; `predict`, the export and the sweep's table say the same."""
    run, dataset = tmp_path / "run", ShardedDataset.open(sized)
    assert (
        finetune(run, sized, "task.labels=[width]", "steps=40") == 0
        and finetune(run, sized, "task.labels=[width]") == 0
    )
    content = json.loads((run / "results.json").read_text())
    figures = {(row["metric"], row["name"]): row for row in content["figures"]["test"]}
    targets, predictions, names, _ = number_arrays(read_cases(run / "cases" / "test.parquet"))
    assert names == ["width"] and len(targets) == 24
    error = predictions - targets
    assert figures["MAE", "width"]["value"] == pytest.approx(np.abs(error).mean())
    assert figures["RMSE", "mean"]["value"] == pytest.approx(np.sqrt((error**2).mean()))
    assert figures["R2", "width"]["value"] == pytest.approx(1 - (error**2).sum() / (targets.var() * 24))
    assert figures["Pearson r", "width"]["value"] == pytest.approx(pearsonr(predictions[:, 0], targets[:, 0]).statistic)
    low, high = figures["R2", "width"]["interval"]
    assert low < figures["R2", "width"]["value"] < high and figures["R2", "width"]["value"] > 0.5, "it has learned"
    best = max(rows(run, "val"), key=lambda row: row["r2"])
    assert content["step"] == best["step"] and best["mae"] > 0 and content["thresholds"] is None

    known = dataset.labels(dataset.rows("train"))[:, 0]
    known = known[~np.isnan(known)].astype(float)
    described = read_description(run)
    ((mean, deviation),) = described.output.normalised
    assert (mean, deviation) == pytest.approx((known.mean(), known.std())) and len(known) == 40
    assert f"width {mean:.6g} and {deviation:.6g}" in " ".join(described.training)

    reported = predictions[:, 0].tolist()
    for source in (run, export(run, {"formats": ["plain"]})):
        out = tmp_path / f"{source.name}-predicted"
        assert predict([f"run={source}", f"data.shards={sized}", f"out={out}"]) == 0
        head, *lines = (line.split(",") for line in (out / "predictions.csv").read_text().splitlines())
        values = dict(lines)
        keys = [case.key for case in read_cases(run / "cases" / "test.parquet")]
        assert head == ["key", "width"] and [float(values[key]) for key in keys] == pytest.approx(reported, rel=1e-6)
    assert "| 0 | width |" in (run / "export" / "README.md").read_text()

    spread, errors = compared([({}, run)]).spreads
    assert (spread.metric, errors.metric) == ("R2 mean", "MAE width") and spread.interval is not None
    assert spread.mean == pytest.approx(spread.interval.value)
    assert report([f"run={run}"]) == 0
    assert "width: predicted over true" in (run / "report.html").read_text()
    capsys.readouterr()
    assert localize([f"run={run}", f"data.shards={sized}", f"out={tmp_path / 'seen'}"]) == 2
    assert "was fine-tuned on numbers: localize asks where labels are seen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["evaluate.temperature=true"], "evaluate.temperature=true: temperature scaling is of labels; use false"),
        (["evaluate.window=sliding"], "evaluate.window=sliding: windows are of masks; use null"),
        (["task.loss=[ce]"], "task.loss[0]=ce: expected mse or mae"),
        (["task.labels=[widht]"], "has no label 'widht', but width, dark; did you mean 'width'?"),
    ],
)
def test_what_numbers_do_not_have_is_refused(
    sized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], printed: str
) -> None:
    assert finetune(tmp_path / "run", sized, *words) == 2
    assert printed in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_labels_of_numbers_are_not_learned_as_yes_and_no(
    sized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[Any] = [*TINY, "task=labels", f"data.shards={sized}", f"run={tmp_path / 'run'}"]
    assert main(words) == 2
    assert "numbers are learned by task=regression" in capsys.readouterr().err
