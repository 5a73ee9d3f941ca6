"""``torchrun held.py STRATEGY``: bytes that a process keeps of a generator and its optimizer between two steps."""

import gc
import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from dira_scale.base.config.compose import compose
from dira_scale.pretrain.objective import Forward
from dira_scale.train import methods
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.collectives import rank
from dira_scale.train.distributed.processes import start
from dira_scale.train.engine import optim, parallel
from dira_scale.train.engine.parallel.strategy import Sharded
from dira_scale.train.models.momentum import local_shard

SETTINGS = ["experiment=small", "precision=fp32", "data.shards=none", "parallel.threads=1", "method.base.queue=64"]


def storages(tensors: list[Tensor]) -> dict[int, int]:
    """Size of each piece of memory that the tensors lie in, by its address."""
    sizes = {}
    for tensor in tensors:
        part = local_shard(tensor)
        if part.numel():
            storage = part.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
    return sizes


def alive() -> dict[int, int]:
    gc.collect()
    return storages([thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)])


def prepare(module: Any) -> Any:
    module.enter_stage(["di", "re"])
    return Forward(module)


def main() -> None:
    cfg = compose("pretrain", [*SETTINGS, f"parallel={sys.argv[1]}"])
    config = OmegaConf.to_object(cfg)
    world = start(config.parallel, config.precision)
    before = alive()
    torch.manual_seed(0)
    method = methods.build(cfg.method, cfg.model, ViewSpec(size=32), batch=32)
    strategy = parallel.build(world, config.parallel, method)
    del method
    images, model = torch.rand(8, 1, 32, 32), None
    for step in range(4):
        if step % 2 == 0:  # of the stage before nothing may be left
            if model is not None:
                strategy.end(model)
            model = strategy.begin(prepare, lambda m: optim.stage_optimizer(config.optim, m, 32))
        with model.accumulating(True):
            batch = SimpleNamespace(step=step, lacking=lambda first, views: None)
            terms = model.wrapped((images, images), (images, images), batch)
            model.backward(sum(terms.losses.values()))
        del terms
        model.step()
        model.module.after_step()
    del images
    after = alive()
    whole = storages(list(strategy.module.state_dict().values())) if isinstance(strategy, Sharded) else {}
    held = sum(size for address, size in after.items() if address not in before and address not in whole)
    kinds = {
        kind: sum(storages([t for name, t in model.local_tensors().items() if name.startswith(start)]).values())
        for kind, start in (("method", "module."), ("optimizer", "optimizer."))
    }
    if rank() == 0:
        print("HELD " + json.dumps({"all": held} | kinds), flush=True)
    world.end()


if __name__ == "__main__":
    main()
