"""How a run ends that has no checkpoint yet, and what a second Ctrl-C leaves."""

import errno
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness import status
from omegaconf import OmegaConf
from train.engine.regression import Regression

from dira_scale.train.distributed.config import Parallel
from dira_scale.train.engine.config import CheckpointConfig, Training
from dira_scale.train.engine.run import run_task
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.checkpoint import folder, writer


def start(run: Path, **changed: Any) -> int:
    """A run of 41 steps with a checkpoint every four; the methods of its task in ``changed`` are others."""
    parallel = Parallel("ddp", 1, 1, False, False, False, False, 120)
    config = Training(str(run), 0, 41, "fp32", parallel, CheckpointConfig(4, 2, None), 120, 10)
    return run_task(config, OmegaConf.structured(config), type("Changed", (Regression,), changed))


def test_a_disk_without_room_for_a_checkpoint_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as full:
        full.setattr(folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=3))
        assert start(tmp_path) == 2
    assert "checkpoints has 0 MB free, and a checkpoint of this run takes at least" in caplog.text
    assert not (tmp_path / "metrics.jsonl").exists()
    assert start(tmp_path) == 0  # what stands there does not hinder it
    monkeypatch.setattr(folder.shutil, "disk_usage", lambda _: SimpleNamespace(free=3))
    assert start(tmp_path) == 0  # there are checkpoints: old ones make room


def test_training_ends_at_the_first_checkpoint_that_is_refused_but_not_at_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = writer.write_atomic, list[Path]()

    def full(after: int) -> Any:
        def refuse(path: Path, *rest: Any) -> None:
            written.append(path)
            if len(written) in (after, after + 1):
                raise OSError(errno.ENOSPC, "No space left on device")
            write(path, *rest)

        return refuse

    monkeypatch.setattr(writer, "write_atomic", full(1))
    assert start(tmp_path / "first") == 1
    actual = status(tmp_path / "first")
    assert actual["step"] < 41 and "starts again, as there is no other yet" in actual["reason"]
    written.clear()
    monkeypatch.setattr(writer, "write_atomic", full(3))
    assert start(tmp_path / "later") == 0 and len(written) > 4


@pytest.mark.parametrize(("step", "follows"), [(2, "starts again"), (9, "resumes from the newest checkpoint")])
def test_a_second_ctrl_c_is_one_line_and_an_interrupted_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, step: int, follows: str
) -> None:
    taken = list[int]()

    def interrupt(self: Regression, module: torch.nn.Module, share: float) -> None:
        taken.append(1)
        if len(taken) > step:
            raise KeyboardInterrupt

    caplog.set_level(logging.ERROR)
    assert start(tmp_path, set_progress=interrupt) == 75
    actual = status(tmp_path)
    assert (actual["state"], actual["step"], actual["exit_code"]) == ("interrupted", step, 75)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.endswith(f"interrupted at step {step}, without a checkpoint of it; the same command {follows}")
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
    assert bool(checkpoint.complete(tmp_path / "checkpoints")) == (step == 9)
