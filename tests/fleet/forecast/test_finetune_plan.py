"""A sweep checks a `finetune` before it starts: refusals without data, and a rehearsal of its step."""

import json
from pathlib import Path

import pytest
from finetune.conftest import TINY

from dira_scale import plan
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.finetune.blueprint import FinetuneBlueprint
from dira_scale.fleet.forecast.estimate import planned

WORDS = [*TINY, "data.shards=none"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["parallel.accumulate=2"], "parallel.accumulate=2: expected 1: it would cut the batch"),
        (["model.weights=resnet.pth"], "model.weights=.*resnet.pth: expected null, and init="),
        (["+stages.second={terms: [ce], epochs: 1}"], "stages: expected one with epochs, not finetune, second"),
        (["task=masks", "evaluate.crops=ten_crops"], "masks are judged on one crop"),
        (["task=masks", "model.decoder_channels=[8]"], "model.decoder_channels"),
    ],
)
def test_a_configuration_is_refused_without_data(words: list[str], message: str) -> None:
    pytest.importorskip("monai")
    with pytest.raises(UserError, match=message):
        FinetuneBlueprint(compose("finetune", ["init=random", *WORDS, *words])).check(1)
    FinetuneBlueprint(compose("finetune", WORDS)).check(1)


@pytest.mark.parametrize("task", [pytest.param("labels", marks=pytest.mark.system), "masks"])
def test_a_step_is_rehearsed(task: str) -> None:
    """A decoder costs memory and arithmetic; all parameters are trained, each with a gradient and two states."""
    words = [word for word in WORDS if not word.startswith("data.shards")]
    row = planned("finetune", [*words, f"task={task}"], {"gpus": 2, "nodes": 1, "images": 800})
    assert row.steps == 2 * 100 and row.images == 800 and row.row.fits and row.row.hours > 0
    assert row.row.memory.optimizer == pytest.approx(2 * row.row.memory.gradients, rel=0.01)


def test_a_replayed_step_does_not_wait_for_its_host_and_keeps_its_gradients() -> None:
    words = [word for word in WORDS if not word.startswith("data.shards")]
    launched, replayed, halved = (
        planned("finetune", [*words, "task=labels", "model.bn_groups=2", *more], {"gpus": 2, "nodes": 1}).row
        for more in (["parallel.graph=false"], ["parallel.graph=true"], ["parallel.graph=true", "precision=fp16"])
    )
    assert launched.launching and not replayed.launching and replayed.step < launched.step
    assert replayed.memory.peak - launched.memory.peak == 2 * launched.memory.gradients  # two processes send a copy
    assert halved.launching  # fp16 is not recorded


@pytest.mark.system
def test_a_user_plans_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command's row of the configured strategy is the one that a sweep prints."""
    words, file = [word for word in WORDS if not word.startswith("data.shards")], tmp_path / "plan.json"
    given = "task=masks", "plan.images=800", "plan.gpus=2", "parallel.compile=true"  # which not all rows could have
    assert plan.main(["finetune", *words, *given, f"plan.json={file}"]) == 0
    shown = capsys.readouterr().out
    assert "stage finetune" in shown and "dice, ce" in shown
    content = json.loads(file.read_text())
    (row,) = [row for row in content["rows"] if row["strategy"] == "ddp" and not row["checkpointing"]]
    of_sweep = planned("finetune", [*words, "task=masks"], {"gpus": 2, "nodes": 1, "images": 800}).row
    assert (row["memory"]["peak"], row["hours"]) == (of_sweep.memory.peak, of_sweep.hours)


def test_a_mistyped_subcommand_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["finetun"]) == 2
    assert capsys.readouterr().err == "plan: no subcommand 'finetun'; did you mean 'finetune'? There is: finetune\n"
