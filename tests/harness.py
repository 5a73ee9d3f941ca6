"""Whole runs in processes of their own: the command of a tiny one, and what to compare."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import Forked, Started, forkable
from needs import need_extra

from dira_scale import commands
from dira_scale.command import Command
from dira_scale.train.runs import checkpoint

SECONDS = 600  # bound on every wait, for a loaded machine with slow cores
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
SMALL = "model.encoder=test_resnet"  # a tenth of the computation, and of a checkpoint's bytes, of TINY's network
# Of a step in each stage, in which rounding grows slowly.
CALM = ["optim=sgd_moco", "optim.optimizer.lr=1e-3", "data.size=64", "data.batch=16", "validate.batch=5"]
CALM += ["method.base.temperature=0.5", "method.base.momentum=0.9", "optim.discriminator._target_=torch.optim.SGD"]
CALM += ["~optim.discriminator.betas", "+optim.discriminator.momentum=0.9"]
EACH = [SMALL, "checkpoint.every=1", "checkpoint.keep=9"]  # a checkpoint of each step

# Before the first import of Triton in a process, which must choose its interpreter then.
INTERPRETED = f"""
import os, sys
os.environ["TRITON_INTERPRET"] = "1"
sys.path.append({str(Path(__file__).parent)!r})
for name in [*sys.modules]:  # a forked process has imported it
    if name.startswith("triton") and not name.startswith("triton._C"):
        del sys.modules[name]
"""


def pretrain(run: Path, shards: Path, *overrides: str, ranks: int = 1) -> list[str]:
    """The command of a tiny run, on several ranks through torchrun."""
    launcher = [sys.executable, "-m"]
    if ranks > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", "-m"]
    return [*launcher, "dira_scale.pretrain", *TINY, f"data.shards={shards}", f"run={run}", *overrides]


def finish(command: list[str], code: int = 0, seconds: float = SECONDS, fresh: bool = False, before: str = "") -> str:
    """Run to the end and return what was printed; fails unless the exit code is ``code``.

    ``fresh``: by processes that start as a user's do; else Python's are forked (tests/forked.py).
    """
    with job(command, fresh, before) as process:
        assert process.wait(seconds) == code, process.printed()
        return process.printed()


@contextmanager
def job(command: list[str], fresh: bool = False, before: str = "", **environment: str) -> Iterator[Forked | Started]:
    """The command, and its end with all that it started. ``before``: see :class:`Forked`."""
    given = os.environ | {"PYTHONUNBUFFERED": "1"} | environment
    if before and not forkable(command):
        pytest.skip(f"a process in which something is to run first must be forked: {command[:3]}")
    process = Started(command, given) if fresh or not forkable(command) else Forked(command, given, before)
    try:
        yield process
    finally:
        process.close()


def together(commands: list[list[str]]) -> list[str]:
    """What processes of one thread that need each other print, each to its end with exit code 0."""
    with ExitStack() as ending:
        processes = [ending.enter_context(job(command, OMP_NUM_THREADS="1")) for command in commands]
        for process in processes:
            assert process.wait(SECONDS) == 0, process.printed()
        return [process.printed() for process in processes]


def error_lines(printed: str) -> list[str]:
    """The lines with which a run ends that is refused or fails."""
    return [line for line in printed.splitlines() if line.startswith("pretrain: ") and "warning: " not in line]


def status(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "status.json").read_text())
    return content


def rows(run: Path, split: str = "train") -> list[dict[str, Any]]:
    content = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in content if row["split"] == split]


def losses(run: Path, split: str = "train") -> list[dict[str, float]]:
    """Per row, the loss terms only: times and rates differ between two runs."""
    return [{k: v for k, v in row.items() if k.startswith("loss")} for row in rows(run, split)]


def weights(run: Path, step: int | None = None) -> dict[str, torch.Tensor]:
    """All tensors of a step's checkpoint, or of the newest."""
    return dict(checkpoint.load(run / "checkpoints" / f"{step:09d}" if step else checkpoint.latest(run))[0])


def distances(
    run: Path, reference: Path, since: int = 1, at: int | None = None
) -> dict[str, tuple[float, float, float]]:
    """How far ``run`` is from ``reference``, how far that has gone since its step ``since``, and how long it is.

    Euclidean, of every floating tensor of the checkpoints ``at`` that step, or of the newest, but the optimizers'
    states.
    """
    start, ours, theirs = weights(reference, since), weights(run, at), weights(reference, at)
    assert ours.keys() == theirs.keys()
    apart = {}
    for name, tensor in theirs.items():
        assert ours[name].shape == tensor.shape and ours[name].dtype == tensor.dtype, name
        if not name.startswith("optim.") and tensor.is_floating_point():
            apart[name] = tuple(float(x.norm()) for x in (ours[name] - tensor, tensor - start[name], tensor))
    return apart


def assert_moved_alike(
    run: Path, reference: Path, share: float, still: float, zero: float = 2e-7, since: int = 1, at: int | None = None
) -> None:
    """No tensor ended farther from the reference's than ``share`` of the way that this had gone, or than what rounding
    makes of one that goes nowhere: ``still`` of its length, or ``zero``. Of most that move the first is the larger."""
    apart = distances(run, reference, since, at)
    rounding = {name: still * length + zero for name, (_, _, length) in apart.items()}
    for name, (error, moved, _) in apart.items():
        assert error <= share * moved + rounding[name], f"{name}: {error:.1e} of {moved:.1e}"
    trained = [name for name, (_, moved, _) in apart.items() if moved > 0]
    judged = [name for name in trained if share * apart[name][1] > rounding[name]]
    assert len(judged) > 0.85 * len(trained) > 0, f"{len(judged)} of {len(trained)} tensors went anywhere"


def assert_equal_runs(a: Path, b: Path) -> None:
    """Bit for bit: weights, momentum model, queue, optimizers, losses."""
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert different == []
    assert losses(a) == losses(b) and losses(a, "val") == losses(b, "val")


def require_strategy(strategy: str) -> None:
    """Skip, or fail, where ``strategy`` is one of DeepSpeed's and it is missing."""
    if strategy.startswith("zero"):
        need_extra("deepspeed")


def add_command(monkeypatch: pytest.MonkeyPatch, row: Command) -> None:
    """A command of this row, which cannot be called."""
    monkeypatch.setattr(commands, "NAMES", (*commands.NAMES, row.name))
    monkeypatch.setitem(sys.modules, f"dira_scale.{row.name}", SimpleNamespace(COMMAND=row))  # type: ignore[arg-type]
