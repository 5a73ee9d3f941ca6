"""Pretraining as a user runs it: real processes, real signals, real kills."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from harness import (
    CALM,
    EACH,
    SMALL,
    assert_equal_runs,
    assert_moved_alike,
    finish,
    losses,
    pretrain,
    rows,
    status,
    weights,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dira_scale.pretrain import main
from dira_scale.train.runs import checkpoint


def test_a_run_goes_through_its_stages_and_leaves_what_it_promises(unbroken: Path) -> None:
    assert status(unbroken) | {"lease": 1} == {
        "state": "done", "step": 6, "steps": 6, "stage": "dira", "exit_code": 0, "reason": "", "lease": 1,
    }  # fmt: skip
    assert [row["stage"] for row in rows(unbroken)] == ["di", "di", "dir", "dir", "dira", "dira"]
    assert [sorted(k for k in row if k.startswith("loss")) for row in rows(unbroken)[::2]] == [
        ["loss", "loss/di"],
        ["loss", "loss/di", "loss/re"],
        ["loss", "loss/ad", "loss/di", "loss/discriminator", "loss/re"],
    ]
    last = rows(unbroken)[-1]
    assert last["loss"] == pytest.approx(last["loss/di"] + 10 * last["loss/re"] + 0.001 * last["loss/ad"], rel=1e-5)
    assert checkpoint.stages_with_best(unbroken) == ["di", "dir", "dira"]
    for name in (
        "config.yaml",
        "environment.json",
        "pictures/dir.png",
        "pictures/dira.png",
        "pictures/restoration.json",
    ):
        assert (unbroken / name).stat().st_size > 0
    events = EventAccumulator(str(unbroken / "tensorboard"))
    events.Reload()
    written = [event.value for event in events.Scalars("train/loss")]
    assert written == pytest.approx([row["loss"] for row in rows(unbroken)], rel=1e-6)


UNUSED = {"scipy", "sklearn", "pandas", "matplotlib", "skimage", "boto3", "wandb", "tensorboard", "monai", "deepspeed"}
MODULES = """
import sys
from dira_scale.pretrain import main
assert main(sys.argv[1:]) == 0
print("\\n", len(sys.modules), *UNUSED & {*sys.modules})
"""


def test_a_trainer_imports_what_it_uses(shards: Path, tmp_path: Path) -> None:
    """A process that does not write for all, up to and after a validation: it had 4,224 modules."""
    words = pretrain(tmp_path / "run", shards, SMALL, "steps=2", "tracker=none")[3:]
    script = MODULES.replace("UNUSED", str(UNUSED))
    printed = finish([sys.executable, "-c", script, *words], fresh=True).splitlines()[-1].split()
    assert printed[1:] == [] and int(printed[0]) < 3400, printed


def test_what_is_done_is_not_done_again(unbroken: Path, shards: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (unbroken / "checkpoints").iterdir()}
    finish(pretrain(unbroken, shards, *EACH))
    assert {p: p.stat().st_mtime_ns for p in (unbroken / "checkpoints").iterdir()} == before
    assert status(unbroken)["state"] == "done" and len(rows(unbroken)) == 6


def test_two_processes_learn_the_same_as_one(shards: Path, tmp_path: Path) -> None:
    """The first step and one with all terms: losses, gradients (SGD's momentum; Adam hides their sizes), queue,
    discriminator.

    Each step from equal weights: an activation that rounding moves across zero changes no loss, but half a per cent of
    so small a batch's gradient, and the next step's ten times as much. Whether one does depends on the CPU.
    """
    single = tmp_path / "1"
    finish(pretrain(single, shards, *EACH, *CALM))
    for step in (1, 3):
        double = tmp_path / f"2 from {step - 1}"
        if step > 1:
            rewound(single, double, step - 1)
        finish(pretrain(double, shards, *EACH, *CALM, f"steps={step}", ranks=2))
        assert f"from step {step - 1} of " in (double / "log.txt").read_text()
        for split in ("train", "val"):
            assert len(losses(double, split)) == step
            for ours, theirs in zip(losses(double, split), losses(single, split)[:step], strict=True):
                assert ours == pytest.approx(theirs, rel=1e-4)  # measured: 1e-7, 1e-7, 2e-5
        if step > 1:
            assert_moved_alike(double, single, share=0.02, still=1e-7, zero=1e-9, since=step - 1, at=step)
        assert_equal_gradients(weights(double, step), weights(single, step), share=0.02)


def rewound(run: Path, copy: Path, step: int) -> None:
    """``copy`` is ``run`` as if it had been interrupted after ``step``."""
    shutil.copytree(run, copy)
    for newer in sorted((copy / "checkpoints").glob("0*"))[step:]:
        shutil.rmtree(newer)
    (copy / "checkpoints" / "LATEST").write_text(f"{step:09d}")


def assert_equal_gradients(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], share: float) -> None:
    gradients = [name for name in theirs if name.endswith("momentum_buffer")]
    # A bias before BatchNorm has no gradient but rounding's.
    assert sum(theirs[name].norm() > 1e-4 for name in gradients) > 0.9 * len(gradients)
    for name in gradients:
        error = (ours[name] - theirs[name]).norm()
        assert error <= share * theirs[name].norm() + 1e-5, name


@pytest.mark.system
def test_a_stage_that_stands_still_ends_early_with_a_checkpoint(shards: Path, tmp_path: Path) -> None:
    """With a rate of 0 the second validation cannot be better than the first, nor the third."""
    run, stop = tmp_path / "run", ["validate.every=1", "stages.di.patience=2", "stages.di.epochs=9", "epoch_factor=1"]
    command = pretrain(run, shards, SMALL, *stop, "optim.optimizer.lr=0", "stages.dir.epochs=0", "stages.dira.epochs=0")
    command += ["optim.optimizer.weight_decay=0", "method.base.momentum=1"]
    finish(command)
    step = status(run)["step"]
    assert status(run)["state"] == "done" and step < 45 and step % 5 == 0
    assert checkpoint.latest(run).name == f"{step:09d}"
    before = (run / "metrics.jsonl").read_text()
    finish(command)  # what ended early does not begin again
    assert status(run)["step"] == step and (run / "metrics.jsonl").read_text() == before


@pytest.mark.system
def test_bf16_follows_fp32(unbroken: Path, shards: Path, tmp_path: Path) -> None:
    """Query and key are right to 2^-8 each: a cosine to 2^-7, over the temperature of 0.1 a logit to 0.08, and the loss
    is a difference of two logits. Adam's first steps carry rounding noise on."""
    finish(pretrain(tmp_path / "run", shards, SMALL, "precision=bf16"))
    for ours, theirs, tolerance in zip(losses(tmp_path / "run"), losses(unbroken), [0.03, *[0.3] * 5], strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=2 * 2**-7 / 0.1)
        assert ours != theirs


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seed=1"], "other settings: seed: 0 -> 1"),
        (["stages.dira.terms=[di,re,add]"], r"stages\.dira\.terms=.* expected terms of DiRA.*mean 'ad'"),
        (["data.batch=6"], "method.base.queue=64: expected a multiple of the batch of 6"),
        (["parallel.accumulate=3"], "data.batch=8 is not divisible by 1 ranks x parallel.accumulate=3"),
        (["parallel.accumulate=2"], "parallel.accumulate=2: expected at most 1, or bn_groups of at least 4"),
        (["data.val_split=vall"], "data.val_split=vall.*did you mean 'val'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    unbroken: Path, shards: Path, overrides: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (unbroken / "config.yaml").read_bytes()
    assert main(pretrain(unbroken, shards, SMALL, *overrides)[3:]) == 2
    printed = capfd.readouterr().err.strip()
    assert len(printed.splitlines()) == 1
    assert re.search(message, printed), printed
    assert (unbroken / "config.yaml").read_bytes() == before


@pytest.mark.system
def test_accelerate_launch_runs_it(unbroken: Path, shards: Path, tmp_path: Path) -> None:
    finish([sys.executable, "-m", "accelerate.commands.launch", "-m", *pretrain(tmp_path / "run", shards, SMALL)[2:]])
    assert_equal_runs(tmp_path / "run", unbroken)
