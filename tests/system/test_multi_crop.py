"""A method of several kinds of crops is trained like any other: on one process and on two, the same run."""

from pathlib import Path

import pytest
from harness import assert_moved_alike, finish, losses, pretrain, status
from system.test_strategies import by_script
from train.methods.test_multi_crop import CROPS, METHOD

from dira_scale.report import main as report

pytestmark = pytest.mark.system

WORDS = [*METHOD, "~method.base", "data.size=64", f"views.crops={CROPS}", "stages.di.epochs=2", "stages.dir.epochs=0",
         "stages.dira.epochs=0", "model.bn_groups=1", "optim=sgd_moco", "optim.optimizer.lr=1e-2", "validate.every=5",
         "checkpoint.every=1", "checkpoint.keep=99", "health.every=5"]  # fmt: skip


EXACT = 1e-9  # of a loss in float64


def run(folder: Path, shards: Path, *more: str, ranks: int = 1) -> Path:
    """A run in float64, in which rounding is nothing."""
    finish(by_script(pretrain(folder, shards, *WORDS, "model.encoder=test_resnet", *more, ranks=ranks), "exact.py"))
    return folder


def test_on_one_process_and_on_two(shards: Path, tmp_path: Path) -> None:
    """With the loader in a process of its own on the two; then a report."""
    one = run(tmp_path / "one", shards)
    two = run(tmp_path / "two", shards, "data.helper=true", ranks=2)
    assert status(one)["step"] == status(two)["step"] == 10
    assert len({row["loss/di"] for row in losses(one)}) == 10
    for split in ("train", "val"):
        for ours, theirs in zip(losses(two, split), losses(one, split), strict=True):
            assert ours == pytest.approx(theirs, rel=EXACT, abs=EXACT)
    assert_moved_alike(two, one, share=0.05, still=3e-7)
    assert report([f"run={one}"]) == 0
