"""The experiment that the doctor recommends, its steps and time, against arithmetic by hand."""

from dataclasses import replace
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from dira_scale.base.machine.hardware import Gpu, Hardware
from dira_scale.doctor import advice
from dira_scale.doctor.advice import ExperimentChoice, choice, flops_per_second, recommend, show_advice

LAPTOP = Hardware((), "a CPU", 2, 4, (), 16.0, 10.0, 100.0)
TWO_GPUS = Hardware((Gpu("NVIDIA A100", 80.0, "570", 8.0),) * 2, "a CPU", 16, 32, (), 128.0, 100.0, 100.0)


def choices(images: int, hours: float, memory: float) -> list[ExperimentChoice]:
    """``small`` in an hour; ``dira_moco`` in ``hours`` with ``memory`` of 76 GB."""

    def plan(steps: int, hours: float, peak: float) -> Any:
        row = SimpleNamespace(hours=hours, memory=SimpleNamespace(peak=1e9 * peak))
        return SimpleNamespace(steps=steps, row=row, remarks=["groups span"])

    small = ExperimentChoice(
        "small", 64, "resnet18", 32, images, 76.0, 9.3, plan(2604, 1.0, 0.5) if images >= 32 else None
    )
    full = ExperimentChoice("dira_moco", 224, "resnet50", 256, images, 76.0, 1.0)
    full = replace(full, plan=plan(17600, hours, memory) if images >= 256 else None)
    return [full, small]


@pytest.mark.parametrize(
    ("images", "hours", "memory", "expected", "why"),
    [
        (30000, 100.0, 40.0, "dira_moco", "fits and takes at most 4.2 d"),
        (30000, 200.0, 40.0, "small", "dira_moco takes about 8.3 d here, more than 7.0 d"),
        (30000, 100.0, 77.0, "small", "dira_moco needs 77.0 GB a process, 76.0 are free"),
        (9999, 100.0, 40.0, "small", "dira_moco is for 10,000 images and more"),
        (20, 100.0, 40.0, None, "small needs 32 images, a batch; data.batch=16 tries whether all works"),
        (7, 100.0, 40.0, None, "small needs 32 images, a batch; data.batch=4 tries whether all works"),
    ],
)
def test_the_full_size_experiment_is_recommended_where_it_fits(images, hours, memory, expected, why) -> None:
    best, reason = recommend(choices(images, hours, memory))
    assert (best and best.experiment) == expected
    assert why in reason


@pytest.mark.parametrize("held_out", [True, False])
def test_the_command_can_be_typed(held_out: bool) -> None:
    """Without held-out images it does not ask for a validation split. Its remarks on the batch are below it."""
    text = StringIO()
    actual = [replace(single, held_out=held_out) for single in choices(30000, 200.0, 40.0)]
    show_advice("out/shards/a b", actual, ["dira_scale", "pretrain"], Console(file=text, width=200))
    keys = "experiment=small epoch_factor=9.3 data.shards='out/shards/a b' run='out/runs/a b'"
    assert f"dira_scale pretrain {keys}{'' if held_out else ' data.val_split=null'}\n" in text.getvalue()
    short = "experiment=small epoch_factor=0.3 data.shards='out/shards/a b' run='out/runs/a b_trial'"  # 9.3 by 30
    assert f"dira_scale pretrain {short}" in text.getvalue() and "\n  groups span\n" in text.getvalue()
    assert "30,000 training images" in text.getvalue() and "17,600" in text.getvalue()


def test_steps_are_those_of_the_schedule_on_as_many_gpus_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 steps an epoch, 40 epochs; 3,900 steps are enough: 9.8 times as many epochs."""
    monkeypatch.setattr(advice, "flops_per_second", lambda *_: 1e9)
    monkeypatch.setattr(advice, "choose", lambda _: "bf16")
    asked: list[tuple[str, list[str], dict[str, Any]]] = []
    monkeypatch.setattr(advice, "planned", lambda *given: asked.append(given))
    assert choice("small_pcrl", 320, TWO_GPUS).epoch_factor == choice("small_pcrl", 320, LAPTOP).epoch_factor == 9.8
    assert all({"experiment=small_pcrl", "epoch_factor=9.8"} <= {*words} for _, words, _ in asked)
    described = [(machine["gpus"], machine["images"], machine["tflops"]) for _, _, machine in asked]
    assert described == [(2, 320, 1e-3), (1, 320, 1e-3)]
    assert choice("small_pcrl", 31, LAPTOP).problem == "needs 32 images, a batch" and len(asked) == 2


@pytest.mark.system
def test_time_is_that_of_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """PCRL passes an image through encoder and decoder several times: more than the encoder's forward and backward pass
    (0.22 GFLOP at 32 pixels), less than twenty of them."""
    monkeypatch.setattr(advice, "flops_per_second", lambda *_: 1e9)
    single = choice("small_pcrl", 320, LAPTOP)
    assert single.plan and (single.epoch_factor, single.plan.steps) == (9.8, 3920)
    assert 0.22 < single.plan.row.hours * 3600 / 3920 / 32 < 4.4
    assert not single.problem and single.available == pytest.approx(10.0 * 2**30 / 1e9)


def test_the_measured_speed_counts_a_networks_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-18 has 1.82 G multiplications and additions at 224 pixels; a step has about six times as many FLOPs."""
    clock = iter(range(100))
    monkeypatch.setattr(advice.time, "perf_counter", lambda: next(clock))  # each step takes a second
    expected = 6 * 1.82e9 * (32 / 224) ** 2 * 4
    assert flops_per_second("resnet18", 32, 4, "fp32") == pytest.approx(expected, rel=0.05)
