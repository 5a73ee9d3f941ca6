"""Stages: lengths, rates by batch, an order each; runs stopped in every stage go on to the same weights."""

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from harness import assert_equal_runs, pretrain, rows, weights
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file

from dira_scale.base.config.compose import compose
from dira_scale.pretrain import main
from dira_scale.shard import main as shard
from dira_scale.train.data.order import Order
from dira_scale.train.engine.run import _summary
from dira_scale.train.engine.state import RunState
from dira_scale.train.engine.step import StageRun
from dira_scale.train.engine.task import StagePlan
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.description import read_description


def composed(*overrides: str) -> Any:
    config: Any = OmegaConf.to_object(compose("pretrain", ["data.shards=somewhere", *overrides]))
    return config


@pytest.mark.parametrize("batches", [(8, 8, 8), (8, 8, 3), (8, 3, 8), (3, 10, 4)])
def test_no_view_of_an_image_comes_twice(batches: tuple[int, int, int]) -> None:
    """(epoch, image, occurrence) is the key of a view's random numbers: brute force over three stages."""
    seen: list[tuple[int, int, int]] = []
    before, start = None, 0
    for batch, steps in zip(batches, (7, 9, 25), strict=True):
        order = Order((41,), seed=0, batch=batch)
        plan = StagePlan("any", batch, steps, order.steps_per_epoch)
        start = 0 if before is None else plan.order_start(before, start + before.steps)
        for step in range(start, start + steps):
            positions = order.batch_at(step)
            occurrences = zip(positions.index.tolist(), positions.occurrence.tolist(), strict=True)
            seen += [(positions.epoch, *sample) for sample in occurrences]
        before = plan
    assert len(set(seen)) == len(seen)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 images of which 40 are trained on."""
    folder, out = tmp_path_factory.mktemp("images"), tmp_path_factory.mktemp("shards") / "noise"
    generator, lines = np.random.default_rng(0), ["file,patient,split"]
    for i in range(50):
        small = Image.fromarray(generator.integers(0, 255, (6, 5), dtype=np.uint8))
        small.resize((40, 48)).save(folder / f"{i:03d}.png")
        lines.append(f"{i:03d}.png,p{i},{'train' if i < 40 else 'val'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    recipe = [f"recipe.images={folder}", f"recipe.labels={folder / 'labels.csv'}", f"out={out}", "workers=1"]
    recipe += ["recipe.name=noise", "recipe.licence=none", "recipe.secret=false"]
    assert not shard(["recipe=folder", *recipe, "recipe.columns={file: file, patient: patient, split: split}"])
    return out


# 5 steps an epoch at batch 8, 10 at batch 4: stages of 3 + 3 + 4 steps, then one of 2 at the first batch again.
SETTINGS = [
    "model.encoder=test_resnet", "data.val_split=null", "health.every=1000",
    "optim.span=stage", "optim.warmup_epochs=0",
    "stages.di.epochs=0.6", "stages.dir.epochs=0.6", "stages.dira.epochs=0.4", "stages.dira.batch=4",
    "+stages.again={terms: [di, re], epochs: 0.4}",
]  # fmt: skip


def run(folder: Path, shards: Path, *overrides: str) -> None:
    assert main(pretrain(folder, shards, *SETTINGS, *overrides)[3:]) == 0


def test_a_run_of_several_batches_that_is_stopped_ends_with_the_same_weights(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts from weights whose licence stands in log and description."""
    save_file(timm.create_model("test_resnet", num_classes=3).state_dict(), path := tmp_path / "w.safetensors")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    start = f"model.weights={path}"
    shares: list[float] = []
    moves = MoCo.after_step
    with monkeypatch.context() as patch:
        patch.setattr(MoCo, "after_step", lambda method: shares.append(method.progress) or moves(method))
        run(tmp_path / "unbroken", shards, start)
    assert read_description(tmp_path / "unbroken").network.licence == "mit"
    log = (tmp_path / "unbroken" / "log.txt").read_text()
    assert re.search(r"w\.safetensors: encoder \(timm .* loaded; 2 other entries not used: .*; licence: mit\n", log)
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, 0, 1 / 3, 2 / 3, 0, 1 / 4, 1 / 2, 3 / 4, 0, 1 / 2])
    for steps in (3, 8):  # at the end of a stage and within one, of another batch and with a discriminator
        run(tmp_path / "stopped", shards, start, f"steps={steps}")
    run(tmp_path / "stopped", shards, start)
    assert_equal_runs(tmp_path / "stopped", tmp_path / "unbroken")
    actual = rows(tmp_path / "unbroken")
    assert [row["stage"] for row in actual] == ["di"] * 3 + ["dir"] * 3 + ["dira"] * 4 + ["again"] * 2
    # Six steps of 8 are one epoch and one step; then four of 4, and two of 8.
    expected = [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2.0]
    assert [row["epoch"] for row in actual] == pytest.approx(expected)
    progress = checkpoint.load(checkpoint.latest(tmp_path / "unbroken"))[1]
    assert (progress["stage"], progress["stage_start"], progress["order_start"]) == (3, 10, 15)
    queue = weights(tmp_path / "unbroken")["method.base.queue_pointer"]
    assert int(queue) == (6 * 8 + 4 * 4 + 2 * 8) % 64  # it goes on over the stages
    assert [row["lr"] for row in actual][::3][:2] == [1e-3, 1e-3]  # each stage begins at the full rate


def test_rates_follow_the_schedule_but_for_a_fixed_one() -> None:
    """SimSiam's released code: its predictor keeps the first rate, all else goes by a cosine of whole epochs."""
    optimizer = torch.optim.SGD(
        [
            {"params": [torch.zeros(1)], "fixed_rate": False, "frozen": 0.0, "initial_lr": 0.4},
            {"params": [torch.zeros(1)], "fixed_rate": True, "frozen": 0.0, "initial_lr": 0.4},
            {"params": [torch.zeros(1)], "fixed_rate": True, "frozen": 0.25, "initial_lr": 0.4},
        ],
        lr=0.4,
    )
    plan = StagePlan("any", batch=32, steps=40, per_epoch=10)
    shares: list[float] = []
    task: Any = SimpleNamespace(
        optim=composed("experiment=simsiam").optim, set_progress=lambda _, share: shares.append(share)
    )
    model: Any = SimpleNamespace(optimizer=optimizer, module=None)
    stage = StageRun(plan, model, None, None, None)  # type: ignore[arg-type]
    for step in range(40):
        stage.set_pace(task, RunState(step=100 + step, stage_start=100))
        expected = 0.4 * 0.5 * (1 + math.cos(math.pi * (step // 10) / 4))
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([expected, 0.4, 0.4 * (step >= 10)])
        assert shares[-1] == step / 40


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.dira.batch=7"], "stage dira: model.bn_groups=2: expected one of 1, groups of at least 2"),
        (["stages.dira.batch=12"], r"method\.base\.queue=64: expected a multiple of the batch of 12, such as 60"),
        (["stages.dira.batch=48"], r"data\.batch=48: expected 32 .* 40 samples do not fill one global batch of 48"),
        (["data.lanes=8"], "data.lanes=8: expected a divisor of the global batch of 4"),
        (["optim.warmup_epochs=0.5"], r"warmup_epochs=0\.5 is not shorter than stages\.dira\.epochs=0\.4"),
        (
            ["stages.dira.terms=[re,da]"],
            r"stages\.dira\.terms=\[re, da\]: expected terms of DiRA, which has di, re, ad",
        ),
        (["optim.discriminator.lr=-1"], r"optim\.discriminator: Invalid learning rate: -1"),
        (["optim.fixed_rate=[predictor]"], "no module is named 'predictor'"),
    ],
)
def test_what_a_later_stage_cannot_train_is_refused_before_the_first_step(
    shards: Path, tmp_path: Path, overrides: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(pretrain(tmp_path / "run", shards, *SETTINGS, *overrides)[3:]) == 2
    printed = capfd.readouterr().err.strip()
    assert len(printed.splitlines()) == 1
    assert re.search(message, printed), printed
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_a_run_that_is_done_is_not_told_that_its_steps_are_few() -> None:
    trainer = SimpleNamespace(
        config=SimpleNamespace(run="r"), world=None, task=None, state=SimpleNamespace(step=84), total_steps=lambda: 84
    )
    assert _summary(trainer) == ["run r, from step 84 of 84"]  # type: ignore[arg-type]
