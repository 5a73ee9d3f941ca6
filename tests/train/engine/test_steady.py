"""The engine reads rows a step late, and writes traces."""

import gzip
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import rows, status
from omegaconf import OmegaConf
from train.engine.regression import EPOCH, STAGES, Regression

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.distributed.config import Parallel
from dira_scale.train.engine import metrics_log, optim
from dira_scale.train.engine.config import CheckpointConfig, Profile, Training
from dira_scale.train.engine.means import HostCopy
from dira_scale.train.engine.run import run_task

FIRST = STAGES[0].steps


def start(run: Path, steps: int = 41, profile: str | None = None, every: int = 1000, **changed: Any) -> int:
    """A run with a row every ten steps; the methods of its task in ``changed`` are others."""
    parallel = Parallel("ddp", 1, 1, False, False, False, False, 120)
    saved = CheckpointConfig(every, 2, None)
    config = Training(str(run), 0, steps, "fp32", parallel, saved, 120, 10, "none", Profile(profile))
    return run_task(config, OmegaConf.structured(config), type("Changed", (Regression,), changed))


def test_a_row_is_read_when_the_next_step_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once where a checkpoint follows: at the end of a stage and of the run. Its numbers are of its own steps."""
    losses, read = list[float](), dict[int, int]()

    class Seen(HostCopy):
        def __init__(self, *tensors: torch.Tensor) -> None:
            super().__init__(*tensors)
            self.step = len(losses)

        def read(self) -> list[torch.Tensor]:
            read[self.step] = len(losses)
            return super().read()

    def noted(self: Regression, stage: Any, model: Any, micro: Any) -> Any:
        made = Regression.losses(self, stage, model, micro)
        if torch.is_grad_enabled():
            losses.append(float(made.total.detach()))
        return made

    monkeypatch.setattr(metrics_log, "HostCopy", Seen)
    assert start(tmp_path, losses=noted) == 0
    assert read == {10: 11, 20: 21, FIRST: FIRST, 40: 41, 41: 41}
    written = rows(tmp_path)
    assert [(row["step"], row["stage"]) for row in written] == [
        (10, "weights"), (20, "weights"), (30, "weights"), (40, "all"), (41, "all"),
    ]  # fmt: skip
    expected = [
        sum(part) / len(part) for part in (losses[:10], losses[10:20], losses[20:30], losses[30:40], losses[40:])
    ]
    assert [row["loss"] for row in written] == pytest.approx(expected, rel=1e-6)
    rates = [optim.learning_rate("cosine", 0.1, step, FIRST, EPOCH) for step in (9, 19, 29)]
    assert [row["lr"] for row in written[:3]] == pytest.approx(rates)


@pytest.mark.parametrize("bad", [False, True])
def test_the_row_before_an_error_is_written_unless_it_is_no_number(tmp_path: Path, bad: bool) -> None:
    """The error comes in the step after the row's; a value that is not finite is in no row, however the run ends."""
    begun = list[int]()

    def losses(self: Regression, stage: Any, model: Any, micro: Any) -> Any:
        made = Regression.losses(self, stage, model, micro)
        begun.extend([1] * torch.is_grad_enabled())
        if len(begun) == 21:
            raise ZeroDivisionError("in step 21")
        if bad and len(begun) == 20:
            made.total = made.total * math.nan
        return made

    with pytest.raises(ZeroDivisionError):
        start(tmp_path, losses=losses)
    assert [row["step"] for row in rows(tmp_path)] == [10, 20][: 2 - bad]
    assert (status(tmp_path)["state"], status(tmp_path)["reason"]) == ("failed", "ZeroDivisionError: in step 21")


def spans(run: Path, name: str) -> Counter[str]:
    """How often each span is in a trace."""
    with gzip.open(run / "profile" / name / "rank-0.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    return Counter(event["name"] for event in events if event.get("cat") == "user_annotation")


def test_a_trace_has_the_steps_that_were_asked_for_and_their_parts_by_name(tmp_path: Path) -> None:
    """Over the end of a stage, with one row, checkpoints of the stage's end and of step 32, a validation; then of the
    steps that a run took before it was stopped; then none, as all were taken before."""
    assert start(tmp_path, 34, "28:33", every=32) == 0
    found = spans(tmp_path, "000000028-000000033")
    expected = {"forward": 5, "backward": 5, "optimizer": 5, "validation": 1, "checkpoint": 2}
    assert {name: found[name] for name in expected} == expected
    assert found["data"] == 2 * 5 + 1  # asked for, copied; the end of the stage's
    assert found["logging"] == 5 + 1  # looked for after each step, and begun
    assert start(tmp_path, 36, "35:90") == 0
    assert spans(tmp_path, "000000035-000000036")["optimizer"] == 1
    assert start(tmp_path, 38, "20:36") == 0
    assert len(list((tmp_path / "profile").iterdir())) == 2


@pytest.mark.parametrize("steps", ["5", "9:3", "3:3", "a:b", "-1:4", "1:2:3", "01:2", ""])
def test_steps_that_are_none_are_refused(steps: str) -> None:
    with pytest.raises(ArgumentError, match=r"^steps: expected FIRST:LAST, two numbers of steps such as 100:105"):
        Profile(steps)
