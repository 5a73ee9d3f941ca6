"""A training step hands work to the device and does not wait for it."""

import pytest
import torch

from benchmarks.gpu import steady
from benchmarks.gpu.pageable import PageableCopies

SMALL = ["model.encoder=resnet18", "data.batch=16", "optim.clip=0.05"]
MOCO = ["method=dira_moco", "method.base.queue=64", "stages.di.epochs=0", "stages.dir.epochs=0"]


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
    with PageableCopies() as copies:
        for host in (torch.zeros(2**15), torch.zeros(2**15).pin_memory()):
            host.to("cuda", non_blocking=True)
    assert len(copies.found) == 1
    keys = ["optim=sgd_moco", "data.size=64", "health.every=100", f"model.bn_groups={groups}", f"precision={precision}"]
    actual = steady.waits("pretrain", *MOCO, *SMALL, *keys)
    assert actual["places"] == [] and actual["figures"]["waits"]["fine"]
