"""A task of one's own is one file and its keys: no file of the package names it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset.conftest import make_dataset
from finetune.conftest import TINY
from sklearn.metrics import mean_poisson_deviance

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import number_arrays, read_cases
from dira_scale.evaluate import main as evaluate
from dira_scale.finetune import main as finetune
from dira_scale.judge.evaluation.comparison import compared
from dira_scale.predict import main as predict
from dira_scale.report import main as report

__all__ = ["make_dataset"]
SPLITS = ["train"] * 48 + ["val"] * 24 + ["test"] * 24


@pytest.mark.system
def test_a_task_of_counts_is_trained_judged_compared_and_predicted(
    make_dataset: Callable[..., ShardedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "toy")
    monkeypatch.delitem(sys.modules, "counts", raising=False)
    generator, images, counts = np.random.default_rng(0), [], []
    for _ in SPLITS:
        image, spots = np.full((40, 48), 80, np.uint8), generator.integers(0, 7, 2)
        for grey, number in zip((0, 255), spots, strict=True):
            for y, x in zip(generator.integers(0, 36, number), generator.integers(0, 44, number), strict=True):
                image[y : y + 4, x : x + 4] = grey
        images.append(image)
        counts.append(spots.astype(float).tolist())
    names = [f"p{number // 2}" for number in range(len(SPLITS))]
    shards = make_dataset(images, label_names=("dark", "bright"), labels=counts, splits=SPLITS, patients=names).root
    (tmp_path / "own" / "task").mkdir(parents=True)
    keys = "_target_: counts.CountTask\nloss: [poisson]\nlabels: null\n"
    (tmp_path / "own" / "task" / "counts.yaml").write_text(keys)

    run, own = tmp_path / "run", ["--config-dir", str(tmp_path / "own")]
    words = ["task=counts", f"data.shards={shards}", "optim.optimizer.lr=3e-3", "stages.finetune.epochs=6"]
    assert finetune([*own, *TINY, *words, f"run={run}"]) == 0
    content = json.loads((run / "results.json").read_text())
    figures = {(row["metric"], row["name"]): row for row in content["figures"]["test"]}
    targets, predicted, labels, _ = number_arrays(read_cases(run / "cases" / "test.parquet"))
    for label, *columns in zip(labels, targets.T, predicted.T, strict=True):
        assert figures["deviance", label]["value"] == pytest.approx(mean_poisson_deviance(*columns), rel=1e-6)
    low, high = figures["deviance", "mean"]["interval"]
    assert low < figures["deviance", "mean"]["value"] < high

    trusted = [f"run={run}", f"data.shards={shards}", "trust=counts"]
    assert evaluate([*trusted, f"out={tmp_path / 'again'}"]) == 0
    again = json.loads((tmp_path / "again" / "results.json").read_text())["figures"]["test"]
    assert [row["value"] for row in again] == pytest.approx([row["value"] for row in content["figures"]["test"]])
    assert predict([*trusted, f"out={tmp_path / 'predicted'}"]) == 0
    head, *lines = (line.split(",") for line in (tmp_path / "predicted" / "predictions.csv").read_text().splitlines())
    assert head == ["key", "dark", "bright"] and len(lines) == 24
    assert [spread.metric for spread in compared([({}, run)]).spreads] == ["deviance mean"]
    assert report([f"run={run}"]) == 0
    page = (run / "report.html").read_text()
    assert "dark: predicted over true" in page and "deviance" in page
