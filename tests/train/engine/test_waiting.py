"""A training step hands work to the device and does not wait for it."""

import json
import sys
from pathlib import Path

import pytest
import torch
from harness import finish

from benchmarks.gpu import steady
from benchmarks.gpu.pageable import PageableCopies

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
    with PageableCopies() as copies:
        for host in (torch.zeros(2**15), torch.zeros(2**15).pin_memory()):
            host.to("cuda", non_blocking=True)
    assert len(copies.found) == 1
    keys = ["optim=sgd_moco", "data.size=64", "health.every=100", f"model.bn_groups={groups}", f"precision={precision}"]
    actual = steady.waits("pretrain", *MOCO, *SMALL, *keys, *LAST)
    assert actual["places"] == [] and actual["figures"]["waits"]["fine"]


NARROW = ["optim=sgd_simsiam", "method.base.dim=16", "method.base.hidden=16"]
LARS = ["optim=lars_barlow", "optim.warmup_epochs=0", "model.bn_groups=1", "method.base.dim=64"]
IMAGES = ["data.size=32", "health.every=1"]
LAST, FIRST = ["stages.di.epochs=0", "stages.dir.epochs=0"], ["stages.dir.epochs=0", "stages.dira.epochs=0"]
VOLUMES = ["model.width=0.125", "model.bn_groups=2", "data.size=[16,32,32]", "data.batch=4", "health.every=1"]
CUBES = ["model.features=[8,16,32]", "model.blocks=[1,1,1]", "data.size=[16,16,16]", "views.corruptions.mask.block=8"]
MAE = ["experiment=mae3d", *CUBES, "data.batch=2", "health.every=1"]
TUNE = ["init=random", "model.encoder=resnet18", "data.size=32", "data.batch=4"]
TUNE3D = ["init=random", "views=tune_volumes", "model=unet3d", "model.width=0.125", "data.size=[16,32,32]",
          "data.batch=2"]  # fmt: skip
LABELS, BALANCED = ["task=labels", "task.labels=[a,b,c]"], "task.weights=balanced"
EXPERIMENTS = {
    "first stages of moco": ["pretrain", *MOCO, *SMALL, *IMAGES, "stages.dira.epochs=0"],
    "moco": ["pretrain", *MOCO, *SMALL, *IMAGES, "optim=adamw", "parallel.accumulate=2", *LAST],
    "barlow": ["pretrain", "method=dira_barlow", *SMALL, *IMAGES, *LARS, *LAST],
    "byol": ["pretrain", "method=dira_byol", *SMALL, *IMAGES, *NARROW, *LAST],
    "lejepa": ["pretrain", "method=lejepa", *SMALL, *IMAGES, "method.slices=128", "model.bn_groups=1", *FIRST],
    "swav": ["pretrain", "method=swav", *SMALL, *IMAGES, "method.queue=32", "method.queue_start=0", *FIRST],
    "c2l": ["pretrain", "experiment=small_c2l", "method.queue=64", "method.dim=16", *SMALL, *IMAGES],
    "pcrl": ["pretrain", *PCRL, *SMALL, *IMAGES],
    "released pcrl": ["pretrain", *PCRL, "preset=released", *SMALL, *IMAGES],
    "dira_moco3d": ["pretrain", "experiment=dira_moco3d", *VOLUMES, "method.base.queue=64", *LAST],
    "models_genesis": ["pretrain", "experiment=models_genesis", *VOLUMES],
    "pcrl3d": ["pretrain", "experiment=pcrl3d", *VOLUMES, "method.queue=64"],
    "transvw": ["pretrain", "experiment=transvw", *VOLUMES],
    "dira_transvw": ["pretrain", "experiment=dira_transvw", *VOLUMES, *LAST],
    "mae3d": ["pretrain", *MAE],
    "sparse mae3d": ["pretrain", *MAE, "method.masking=sparse"],
    "mae_vit3d": ["pretrain", "experiment=small_mae_vit3d", "model.depth=2", "data.batch=4", "health.every=1"],
    "rotation": ["pretrain", "experiment=rotation", *SMALL, *IMAGES],
    "relative position": ["pretrain", "experiment=small_relative_position3d", *VOLUMES, "data.size=[32,64,64]"],
    "labels": ["finetune", *LABELS, *TUNE, "normalise=imagenet", BALANCED],
    "classes": ["finetune", *LABELS, *TUNE, "task.exclusive=true", BALANCED],
    "masks": ["finetune", "task=masks", "views=tune_masks", *TUNE],
    "regression": ["finetune", "task=regression", "task.labels=[age]", *TUNE],
    "labels of volumes": ["finetune", *LABELS, *TUNE3D],
    "masks of volumes": ["finetune", "task=masks", "task.classes={a: 1, b: 2}", *TUNE3D],
}


QUICK = ("moco", "released pcrl", "sparse mae3d", "labels")  # images, a mixture, volumes, labels


@pytest.mark.system
@pytest.mark.parametrize(
    "names", [QUICK, tuple(name for name in EXPERIMENTS if name not in QUICK)], ids=["quick", "all others"]
)
def test_a_step_asks_for_nothing_that_a_gpu_would_wait_for(names: tuple[str, ...]) -> None:
    """On a pretended device (pretended.py): what waits is found where it is planted, and in no experiment's steady
    steps, those at which the health monitors look and a row of metrics is begun among them. There, and only there,
    optimizers that have fused kernels use them."""
    pytest.importorskip("torch.utils.backend_registration", reason="this torch cannot pretend a device")
    requested = {name: EXPERIMENTS[name] for name in names}
    script = str(Path(__file__).with_name("pretended.py"))
    actual = json.loads(finish([sys.executable, script, json.dumps(requested)]).splitlines()[-1])
    planted, chosen, on_host = (actual.pop(name) for name in ("planted", "fused", "unfused"))
    assert [case for case, waits in planted.items() if case.startswith("fine") == bool(waits)] == []
    if "lejepa" in actual:  # its directions are drawn on the host; to be mended in the method
        assert all("not pinned: lejepa.py" in wait for wait in actual.pop("lejepa"))
    assert actual == {name: [] for name in requested if name != "lejepa"}
    assert {name for name, fused in chosen.items() if fused} == {"SGD", "Adam", "AdamW"}
    assert not any(on_host.values())
