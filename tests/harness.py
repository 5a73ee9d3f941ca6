"""Whole runs in processes of their own: the command of a tiny one, and what to compare."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dira_scale.train import checkpoint

SECONDS = 240  # bound on every wait
TINY = [
    "experiment=small",
    "precision=fp32",
    "data.size=32",
    "data.batch=8",
    "data.workers=1",
    "model.decoder_channels=[32,16,16,8,8]",
    "method.base.queue=64",
    "model.bn_groups=2",
    "parallel.threads=1",
    "validate.batch=8",
    "validate.every=100",
    "log_every=1",
    "stages.di.epochs=0.5",
    "stages.dir.epochs=0.5",
    "stages.dira.epochs=0.5",
]  # 40 training images: 5 steps an epoch, 2 a stage


def pretrain(run: Path, shards: Path, *overrides: str, ranks: int = 1) -> list[str]:
    """The command of a tiny run, on several ranks through torchrun."""
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    return [*launcher, "dira_scale.pretrain", *TINY, f"data.shards={shards}", f"run={run}", *overrides]


def finish(command: list[str], code: int = 0) -> str:
    """Run to the end and return what was printed; fails unless the exit code is ``code``."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            printed, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # a launcher's processes too
            raise
    assert process.returncode == code, printed
    return printed


def status(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "status.json").read_text())
    return content


def rows(run: Path, split: str = "train") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["split"] == split]


def losses(run: Path, split: str = "train") -> list[dict[str, float]]:
    """Per row, the loss terms only: times and rates differ between two runs."""
    return [{k: v for k, v in row.items() if k.startswith("loss")} for row in rows(run, split)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint."""
    return checkpoint.load(checkpoint.latest(run))[0]


def assert_equal_runs(a: Path, b: Path) -> None:
    """Bit for bit: weights, momentum model, queue, optimizers, losses."""
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert different == []
    assert losses(a) == losses(b) and losses(a, "val") == losses(b, "val")


def skip_without(piece: str, reason: str) -> None:
    """Skip the test for ``reason``, if there is one; fail it where ``piece`` is among DIRA_SCALE_REQUIRE."""
    required = os.environ.get("DIRA_SCALE_REQUIRE", "").split(",")
    if reason and piece in required:
        pytest.fail(f"DIRA_SCALE_REQUIRE has {piece}: {reason}")
    if reason:
        pytest.skip(reason)
