"""``torchrun converted.py STRATEGY SHARD FROM TO``: loads the checkpoint in FROM (``-``: trains two steps instead),
writes it to TO, and says what it read."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from held import SETTINGS, prepare
from omegaconf import OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.train import methods
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.long_work import gather_beside_training
from dira_scale.train.distributed.processes import start
from dira_scale.train.engine import optim, parallel
from dira_scale.train.engine.state import restore, stored
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.description import Tensors

NAMES = Tensors("method", "optim.generator")


def bytes_read() -> int:
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


def main(strategy: str, shard: str, source: str, target: str) -> None:
    cfg = compose("pretrain", [*SETTINGS, "model.bn_groups=1", "method.base.queue=96", f"parallel={strategy}"])
    config: Any = OmegaConf.to_object(cfg)
    world = replace(start(config.parallel, config.precision), shard=int(shard))
    torch.manual_seed(0 if source == "-" else 1)  # other weights than are read
    method = methods.build(cfg.method, cfg.model, ViewSpec(size=32), batch=24)
    chosen = parallel.build(world, config.parallel, method)
    found: checkpoint.Newest | None = None
    before = bytes_read()
    if source != "-":
        found, _ = checkpoint.find_latest(Path(source), world.rank, world.ranks)
        assert found is not None
        restore(found.tensors, chosen.module, SimpleNamespace(tensors=NAMES, side_modules=[]))
    read = bytes_read() - before
    model = chosen.begin(prepare, lambda module: optim.stage_optimizer(config.optim, module, 32))
    before = bytes_read()
    if found is not None:
        model.load(found.tensors, NAMES.optimizer)
    print("READ " + json.dumps([read, bytes_read() - before]), flush=True)
    images = torch.rand(6, 1, 32, 32)
    for step in range(0 if found else 2):
        batch: Any = SimpleNamespace(step=step, lacking=lambda first, views: None)
        with model.accumulating(True):
            model.backward(sum(model.wrapped((images, images), (images, images), batch).losses.values()))
        model.averaging()()
        model.step()
        model.module.after_step()
    saver = checkpoint.Checkpointer(Path(target), 1, world.rank, world.ranks, gather=gather_beside_training())
    saver.save(2, stored(model.pieces(), NAMES), {}, {})
    saver.raise_if_not_saved()
    world.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
