"""Every command that computes on a GPU says what fp32 means there: by torch's defaults its convolutions are in tf32.

A CPU shows it by torch's switches while a network runs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from localize.made_up import sees_brightness
from torch import nn
from train.models.stub3d import TinyEncoder

from dira_scale.doctor import advice
from dira_scale.judge.evaluation.features import features
from dira_scale.probe.probing import ProbeTask, sgd_probe
from dira_scale.train.distributed import processes
from dira_scale.train.distributed.config import Parallel

CPU = torch.device("cpu")
SWITCHES = (torch.backends.cuda.matmul, torch.backends.cudnn)


@pytest.fixture(autouse=True)
def torchs_defaults() -> Iterator[None]:
    before = [switch.allow_tf32 for switch in SWITCHES]
    for switch, value in zip(SWITCHES, (False, True), strict=True):
        switch.allow_tf32 = value
    yield
    for switch, value in zip(SWITCHES, before, strict=True):
        switch.allow_tf32 = value


class Shown:
    """Whole volumes of noise."""

    device = CPU

    def batches(self, batch: int) -> Iterator[torch.Tensor]:
        yield torch.rand(batch, 1, 16, 16, 16)


def training_or_embedding(precision: str) -> None:
    """Both join their processes."""
    given = Parallel("ddp", 1, 1, checkpoint_activations=False, compile=False, offload=False, timeout=60)
    world = processes.start(given, precision)
    with world.autocast():
        nn.Conv2d(1, 1, 1)(torch.rand(1, 1, 2, 2))
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # its backward pass adds in any order, and says nothing


def probing_or_words(precision: str) -> None:
    shown: Any = Shown()
    features([TinyEncoder(4)], shown, [1], 2)


def predicting_or_evaluating(precision: str) -> None:
    trained = sees_brightness(8, 8)
    trained.about["precision"] = precision
    trained.predictor(CPU)(torch.rand(2, 1, 8, 8))


def planning(precision: str) -> None:
    advice.flops_per_second("test_resnet", 32, 2, precision)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("command", [training_or_embedding, probing_or_words, predicting_or_evaluating, planning])
def test_a_network_runs_in_the_precision_that_is_configured(command: Callable[[str], None], precision: str) -> None:
    seen = set[bool]()

    def note(*_: Any) -> None:
        seen.update(switch.allow_tf32 for switch in SWITCHES)

    hook = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        command(precision)
    finally:
        hook.remove()
    assert seen == {precision == "tf32" and command is not probing_or_words}  # whose features are always fp32


def test_linear_probes_are_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = list[bool]()

    def note(inputs: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        seen.extend(switch.allow_tf32 for switch in SWITCHES)
        return torch.zeros(13, inputs.shape[1] + 1, 1)

    monkeypatch.setattr("dira_scale.probe.probing.train_heads", note)
    parts = ("train", "val", "test")
    labels = {part: np.arange(8).reshape(8, 1) % 2.0 for part in parts}
    patients = {part: np.arange(8) for part in parts}
    sgd_probe({part: np.ones((8, 2)) for part in parts}, ProbeTask(("a",), labels, patients), np.arange(8))
    assert seen == [False, False]
