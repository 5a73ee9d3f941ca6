"""The device that a command computes on, with inventories of machines that do not stand here."""

import pytest
import torch

from dira_scale.base.errors import UserError
from dira_scale.base.machine import device
from dira_scale.base.machine.device import compute_device
from dira_scale.base.machine.hardware import Gpu

H100 = Gpu("NVIDIA H100", 80.0, "570.86", 9.0)


@pytest.fixture(autouse=True)
def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver shows two GPUs, and torch cannot use them."""
    monkeypatch.setattr(device, "gpus", lambda: ((H100, H100), ""))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize("visible", [None, "0", "1,0", "GPU-6a7b", "MIG-6a7b", "1,-1"])
def test_gpus_that_torch_cannot_use_are_no_reason_to_compute_on_the_cpu(
    visible: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(UserError) as refused:
        compute_device()
    line = str(refused.value)
    assert f"driver 570.86 shows 2 GPU(s) here, and torch {torch.__version__} (" in line and "\n" not in line
    assert "make setup; or set CUDA_VISIBLE_DEVICES= (empty)" in line and "parallel.device=cpu" in line


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", " "])
def test_hidden_gpus_leave_the_cpu(visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert compute_device().type == "cpu"


def test_the_cpu_is_taken_where_it_is_chosen_or_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compute_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute_device("cpu").type == "cpu" and compute_device().type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "gpus", lambda: ((), "nvidia-smi: no devices were found"))
    assert compute_device().type == "cpu"
