"""The benchmark of a step: its arithmetic by hand, and that both loops compute the same."""

import json
from dataclasses import replace

import pytest

from benchmarks import step

TINY = ["precision=fp32", "parallel.threads=1"]
DIRA = [*TINY, "model.decoder_channels=[32,16,16,8,8]", "method.base.queue=64"]
DINOV2 = [*TINY, "method.prototypes=32", "method.hidden=32"]
TEACHER = "method.teachers=[{weights:random,encoder:test_resnet}]"


def test_looks_and_rows_count_as_often_as_a_run_has_them() -> None:
    """Turns of 2 steps: 2 s plain, 4 s with a look, 3 s with a row; the bare loop's are 1.8 s."""
    result = step.figures([4, 2, 2, 3, 4, 2, 2, 3], [1.8] * 8, steps=2, health_every=100, log_every=20)
    assert result["seconds"] == pytest.approx(1 + 2 / 100 + 1 / 20)
    assert result["bare_seconds"] == pytest.approx(0.9)
    assert result["ratio"] == result["lowest"] == result["highest"] == pytest.approx(0.9 / 1.07)
    assert (result["look"], result["row"]) == (pytest.approx(2 / 1.07), pytest.approx(1 / 1.07))


def test_loops_that_differ_are_not_compared() -> None:
    step.check_losses({"loss": 1.0005, "grown": 7.0}, {"loss": 1.0}, 1e-3)
    with pytest.raises(SystemExit, match=r"differ in loss: 1\.002 and 1"):
        step.check_losses({"loss": 1.002}, {"loss": 1.0}, 1e-3)


@pytest.mark.system
@pytest.mark.parametrize(
    ("case", "extra"),
    [
        (step.StepCase("test_resnet", 32, 4), DIRA),
        (step.StepCase("test_vit", 64, 8, ("experiment=small_dinov2", *step.DINOV2)), DINOV2),
        (replace(step.CPU[3], batch=4), DINOV2),
        (step.StepCase("test_resnet", 64, 8, (*step.DISTIL, TEACHER)), [*TINY, "method.hidden=32"]),
    ],
    ids=["dira_moco", "dinov2", "gram", "distil"],
)
def test_both_loops_compute_the_same(case: step.StepCase, extra: list[str]) -> None:
    """The trainer with all that it does, and the bare loop: ``measure`` itself holds their first losses together."""
    row = step.measure(case, rounds=1, steps=1, extra=extra)
    assert row["case"] == case.name and row["bare_images_per_second"] > 0
    assert row["ratio"] == pytest.approx(row["bare_seconds"] / row["seconds"])
    json.dumps(row)
