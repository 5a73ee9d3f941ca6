"""How a run with a value that is not finite ends: what is reported, and when."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness import status

from dira_scale.base.config import logs
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.engine import nan_stop
from dira_scale.train.engine.nan_guard import NotFiniteError
from dira_scale.train.engine.nan_stop import NaNStop
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.checkpoint import Checkpointer, writer
from dira_scale.train.runs.folder import RunFolder


@pytest.mark.parametrize(("precision", "named"), [("bf16", True), ("fp32", False)])
def test_a_cpu_that_gets_gradients_wrong_is_named(
    precision: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nan_stop, "bf16_without_amx", lambda: True)
    world: Any = SimpleNamespace(wait=lambda: None, device=torch.device("cpu"), precision=precision)
    with pytest.raises(NotFiniteError) as error:
        NaNStop(world, SimpleNamespace(), Checkpointer(tmp_path, 2, 0, 1), tmp_path, None).fail(2, "step 2")  # type: ignore[arg-type]
    assert ("precision=fp32" in str(error.value)) == named


@pytest.mark.parametrize(("disk", "left"), [("slow", "is intact"), ("hanging", "is not written by rank(s) 0")])
def test_what_is_no_number_is_reported_before_the_checkpoint_that_is_written_is_waited_for(
    disk: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.start("pretrain")
    run = RunFolder(tmp_path, {"checkpoint": {"folder": None}})
    saver, write_atomic, released, printed = (
        Checkpointer(run.checkpoints, 2, 0, 1),
        writer.write_atomic,
        threading.Event(),
        [],
    )

    def slowly(*arguments: Any) -> None:
        assert released.wait(120)
        write_atomic(*arguments)

    monkeypatch.setattr(writer, "write_atomic", slowly)
    saver.save(1, checkpoint.replicated({"x": torch.ones(3)}), {}, {})
    alone: Any = SimpleNamespace(wait=lambda: None, device=torch.device("cpu"), precision="fp32")
    stop = NaNStop(alone, SimpleNamespace(), saver, tmp_path, run)  # type: ignore[arg-type]

    def ends() -> None:
        with pytest.raises(NotFiniteError) as error:
            stop.fail(2, "step 2: loss/di is not finite")
        printed.append(str(error.value))

    thread, deadline = threading.Thread(target=ends), time.monotonic() + 120
    thread.start()
    while status(tmp_path)["state"] != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    first = capfd.readouterr().err
    assert first == "pretrain: step 2: loss/di is not finite\n" and status(tmp_path)["reason"] in first
    assert (tmp_path / "log.txt").read_text() in first
    if disk == "hanging":
        monkeypatch.setattr(TIMINGS, "hang_after", 0.0)
    else:
        released.set()
    thread.join(120)
    released.set()
    second = capfd.readouterr().err
    assert second.startswith(f"pretrain: the checkpoint of step 1 {left}") and second.count("\n") == 1
    assert printed == [f"step 2: loss/di is not finite; {second.removeprefix('pretrain: ')}".strip()]
    assert status(tmp_path)["reason"] == printed[0] and printed[0].endswith(". docs/how-to/training.md says what to do")
    run.release()
