"""Each preset on a task that it knows, from the layout of its dataset to figures on the test split."""

import json
from pathlib import Path

import pytest
from archive.conftest import HASH_KEY
from archive.sources.conftest import Here
from finetune.miniatures import sharded
from harness import rows

from dira_scale.archive import writer
from dira_scale.config.compose import compose
from dira_scale.finetune import main
from dira_scale.runs.reader import RunReader

SMALL = [
    "data.size=64", "data.batch=4", "data.workers=1", "model.decoder_channels=[16,16,8,8,8]", "parallel.threads=1",
    "validate.batch=4", "log_every=1",
]  # fmt: skip
ENCODER = {"resnet50": "test_resnet", "resnet18": "test_resnet", "convnext_base": "test_convnext"}


@pytest.mark.system
@pytest.mark.usefixtures("libraries")
@pytest.mark.parametrize(("preset", "task"), [("btl_v1", "chexpert"), ("btl_v2", "siim_acr"), ("pcrl", "chestxray14")])
def test_two_epochs_of_a_protocol(preset: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", HASH_KEY)
    monkeypatch.setattr(writer, "worker_pool", Here)
    shards, run = sharded(task, tmp_path), tmp_path / "run"
    words = [f"preset={preset}", f"task={task}", f"data.shards={shards}", f"run={run}"]
    whole = compose("finetune", words)
    short = f"epoch_factor={2 / whole.stages.finetune.epochs}"  # the warm-up is shorter, too
    assert main([*words, *SMALL, f"model.encoder={ENCODER[whole.model.encoder]}", short]) == 0
    assert [row["epoch"] for row in rows(run, "val")] == [1, 2]
    figures = json.loads((run / "results.json").read_text())["figures"]["test"]
    metric = "AUROC" if "ce" in whole.task.loss else "Dice"
    assert {(row["metric"], row["name"]): row["value"] for row in figures}[metric, "mean"] is not None
    assert any(f"preset `{preset}`" in line for line in RunReader(run).description.training)
