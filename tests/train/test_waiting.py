"""A training step hands work to the device and does not wait for it."""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from harness import finish

from benchmarks import synthetic
from dira_scale.data.views import ViewSpec
from dira_scale.train import optim, parallel
from dira_scale.train.metrics import Means
from dira_scale.train.objective import Objective
from dira_scale.train.step import Step

SETTINGS = ["method=dira_moco", "optim=sgd_moco", "model.encoder=resnet18", "data.size=64", "data.batch=16"]
SETTINGS += ["method.base.queue=64", "optim.clip=0.05", "health.every=100"]


def steps(*overrides: str) -> Iterator[int]:
    """Numbers of steps of all three terms that are taken; the batches lie on the host, as loaders leave them."""
    composed, config = synthetic.configuration(*SETTINGS, *overrides)
    accelerator = parallel.start(config.parallel, config.precision)
    device, views, stage = accelerator.device, ViewSpec(size=config.data.size), config.stages["dira"]
    method, adversary = synthetic.networks(composed, config)
    strategy = parallel.build(config, accelerator, method)
    strategy.enter_stage(stage.terms, partial(optim.generator, config.optim, batch=config.data.batch), {})
    objective = Objective(strategy.method, adversary.to(device), views, device, config.precision)
    judge = optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
    step = Step(config, objective, judge, 1, Means())
    step.enter_stage(stage, strategy)
    for number in range(1, 100):
        step(number, synthetic.batch(views, config.data.batch, number, torch.device("cpu")))
        yield number


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_step_does_not_wait_for_the_gpu(groups: int, precision: str) -> None:
    """With the key shuffle and without. The first steps may: they make states and choose kernels."""
    taken = steps(f"model.bn_groups={groups}", f"precision={precision}")
    assert (next(taken), next(taken)) == (1, 2)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchronizing"):  # it is seen where there is one
            torch.ones(1, device="cuda").item()
        assert (next(taken), next(taken)) == (3, 4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_asks_for_nothing_that_a_gpu_would_wait_for() -> None:
    """On a pretended device (pretended.py): what waits is found where it is planted, and in no method's steps."""
    pytest.importorskip("torch.utils.backend_registration", reason="this torch cannot pretend a device")
    small = ["model.encoder=resnet18", "data.size=32", "data.batch=16", "health.every=100", "optim.clip=0.05"]
    lars = ["optim=lars_barlow", "optim.warmup_epochs=0"]
    settings = {
        "moco": ["method=dira_moco", "optim=adamw", "method.base.queue=64", "parallel.accumulate=2"],
        "barlow": ["method=dira_barlow", *lars, "method.base.dim=64", "model.bn_groups=1"],
        "byol": ["method=dira_byol", "optim=sgd_simsiam", "method.base.dim=16", "method.base.hidden=16"],
    }
    words = [word for keys in settings.values() for word in ("--", *small, *keys)][1:]
    script = Path(__file__).with_name("pretended.py")
    found = json.loads(finish([sys.executable, str(script), *words]).splitlines()[-1])
    missed = [case for case, waits in found["planted"].items() if case.startswith("fine") == bool(waits)]
    assert missed == []
    assert dict(zip(settings, found["steps"], strict=True)) == {name: [] for name in settings}
