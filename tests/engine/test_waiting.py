"""A training step hands work to the device and does not wait for it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from harness import finish

from benchmarks.gpu import steady

SMALL = ["model.encoder=resnet18", "data.batch=16", "optim.clip=0.05"]
PCRL = ["experiment=small_pcrl", "method.queue=64", "method.dim=16"]
MOCO = ["method=dira_moco", "method.base.queue=64"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_step_does_not_wait_for_the_gpu(groups: int, precision: str) -> None:
    """With the key shuffle and without; what waits is seen where there is something."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match=steady.SYNCHRONISED):
            torch.ones(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    keys = ["optim=sgd_moco", "data.size=64", "health.every=100", f"model.bn_groups={groups}", f"precision={precision}"]
    actual = steady.waits([*MOCO, *SMALL, *keys])
    assert actual["steps"] == 3 and actual["places"] == []


NARROW = ["optim=sgd_simsiam", "method.base.dim=16", "method.base.hidden=16"]
LARS = ["optim=lars_barlow", "optim.warmup_epochs=0", "model.bn_groups=1", "method.base.dim=64"]
STEPS = {
    "moco": (["di", "dir", "dira"], [*MOCO, "optim=adamw", "parallel.accumulate=2"]),
    "barlow": (["dira"], ["method=dira_barlow", *LARS]),
    "byol": (["dira"], ["method=dira_byol", *NARROW]),
    "pcrl": (["pcrl"], PCRL),
    "released pcrl": (["pcrl"], [*PCRL, "preset=released", "data.batch=16"]),
}


@pytest.mark.parametrize(
    "names",
    [("moco", "released pcrl"), pytest.param(("barlow", "byol", "pcrl"), marks=pytest.mark.system)],
    ids=", ".join,
)
def test_a_step_asks_for_nothing_that_a_gpu_would_wait_for(names: tuple[str, ...]) -> None:
    """On a pretended device (pretended.py): what waits is found where it is planted, and in no method's steps, those at
    which the health monitors look among them."""
    pytest.importorskip("torch.utils.backend_registration", reason="this torch cannot pretend a device")
    keys = [*SMALL, "data.size=32", "health.every=1"]
    requested = {name: (stages, [*keys, *words]) for name, (stages, words) in STEPS.items() if name in names}
    script = str(Path(__file__).with_name("pretended.py"))
    actual = json.loads(finish([sys.executable, script, json.dumps(requested)]).splitlines()[-1])
    planted = actual.pop("planted")
    assert [case for case, waits in planted.items() if case.startswith("fine") == bool(waits)] == []
    assert actual == {name: [] for name in requested}
