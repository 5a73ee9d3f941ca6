"""Fine-tuning tells its user how it goes while it validates and at its end; a dataset without a test split."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from finetune.conftest import TINY
from harness import rows

from dira_scale.archive.outcome import finetuning
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.finetune import main
from dira_scale.finetune.task import FinetuneTask
from dira_scale.train.engine.task import StagePosition
from dira_scale.train.runs.description import Best
from dira_scale.train.runs.files import NEEDED
from dira_scale.train.schedule import still_falling


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(("task", "metric"), [("masks", "dice"), ("labels", "auroc")])
def test_the_proposed_command_tells_each_validation_and_its_best(
    task: str,
    metric: str,
    make_dataset: Callable[..., ShardedDataset],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The command is the one that `shard` proposes for shards without a test split. Each line has the figure of its row
    in metrics.jsonl, on screen as in log.txt; the last, the best step's."""
    generator, y = np.random.default_rng(0), np.mgrid[:40, :48][0]
    discs = [(y - 20) ** 2 < generator.integers(4, 12) ** 2 for _ in range(24)]
    images = [(40 + 100 * disc + generator.integers(0, 60, y.shape)).astype(np.uint8) for disc in discs]
    given: dict[str, Any] = {"label_names": ["coin"], "labels": [[float(n % 2)] for n in range(24)]}
    given |= {"masks": [disc.astype(np.uint8) for disc in discs]} if task == "masks" else {}
    dataset = make_dataset(images, name="no_test", splits=["train"] * 16 + ["val"] * 8, **given)
    proposed, run = shlex.split(finetuning(dataset.root, dataset.info))[3:], tmp_path / "run"
    assert f"task={task}" in proposed and proposed[-1] == "data.test_split=null"
    words = [*proposed[:-1], *TINY, "stages.finetune.epochs=3", "validate.every=1", f"run={run}"]
    assert main(words) == 2
    assert "has train, val; data.test_split=null trains without a test, with figures on" in capsys.readouterr().err
    assert not run.exists()

    assert main([*words, proposed[-1]]) == 0
    reported = "".join(capsys.readouterr())
    validated = rows(run, "val")
    best = max(validated, key=lambda row: (row[metric], -row["step"]))  # the first of equals
    told = re.findall(r"validation at step (\d+): (\w+) (\S+), loss (\S+); (.*)", reported)
    expected = [(str(row["step"]), metric, f"{row[metric]:.4g}", f"{row['loss']:.4g}") for row in validated]
    assert [line[:4] for line in told] == expected and len(told) == 3
    first = next(line for line in told if line[0] == str(best["step"]))
    assert first[4] == "the best so far"
    assert all(line[4] == f"the best is that of step {best['step']}" for line in told if int(line[0]) > int(first[0]))
    log = (run / "log.txt").read_text()
    assert all(f"validation at step {step}: {metric} {value}, loss" in log for step, _, value, *_ in told)

    results = json.loads((run / "results.json").read_text())
    assert [*results["figures"]] == ["val"] and results["step"] == best["step"]
    assert f"no test split, so by the validation split 'val', checkpoint of step {best['step']}: " in reported


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({30: 0.5, 60: 0.7, 90: 0.8}, True),  # its best is the last
        ({30: 0.5, 60: 0.8, 90: 0.7}, False),  # flat for a third of the run
        ({30: 0.5, 60: 0.8, 90: 0.8}, False),  # equal is no better
        ({30: 0.5, 60: 0.7, 75: 0.8, 90: 0.8}, True),
        ({30: float("nan"), 60: float("nan"), 90: float("nan")}, True),  # nothing says that it is flat
        ({}, True),
    ],
)
def test_training_longer_is_proposed_unless_the_validation_is_flat(
    figures: dict[int, float], told: bool, tmp_path: Path
) -> None:
    """The training loss falls to the end in each case."""
    losses = [1 / (1 + step) for step in range(0, 90, 2)]
    assert still_falling(losses)
    written = [{"split": "train", "step": 2 * n, "loss": loss} for n, loss in enumerate(losses)]
    written += [{"split": "val", "step": step, "dice": figure, "loss": 1.0} for step, figure in figures.items()]
    of_each = {"stage": "finetune", "images_per_second": 1.0, **dict.fromkeys(NEEDED, 1)}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(of_each | row) + "\n" for row in written))
    task = SimpleNamespace(
        world=SimpleNamespace(main=True), unit="images", config=SimpleNamespace(run=tmp_path, epoch_factor=2.0),
        validation=SimpleNamespace(best=Best("dice", "max")),
    )  # fmt: skip
    lines = FinetuneTask.diagnose(task, {"loss": 0.001}, StagePosition("finetune", 90, 90))
    assert bool(lines) == told and all("epoch_factor=4" in line for line in lines)
