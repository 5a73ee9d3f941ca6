"""``python exact.py KEY=VALUE …``: pretrain in float64, from the weights and images that float32 has.

Rounding is then 1e-9 of what it is else: what still differs between two runs is their algorithms'.
"""

import importlib
import math
import sys
from dataclasses import fields, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from dira_scale import pretrain
from dira_scale.pretrain import task as training
from dira_scale.pretrain.task import PretrainTask
from dira_scale.train.data.batch import Batch
from dira_scale.train.engine.parallel import recompute

to, init = Batch.to, PretrainTask.__init__


class Doubles(ModuleType):
    """torch, to whoever asks for float32."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def double(part: Any) -> Any:
    """The floating tensors of a dataclass in float64."""
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    wide = {name: x.double() for name, x in values.items() if isinstance(x, Tensor) and x.is_floating_point()}
    return replace(part, **wide)


def batch_to(self: Batch, device: torch.device | str) -> Batch:
    batch = to(self, device)
    views, distortions = tuple(view.double() for view in batch.views), tuple(map(double, batch.distortions))
    return replace(batch, views=views, distortions=distortions)


def task(self: PretrainTask, config: Any, world: Any, method: Any, adversary: Any, *more: Any) -> None:
    """From here on float64; what was made before, weights above all, was made as ever."""
    torch.set_default_dtype(torch.float64)
    recompute.GROUP = 1_200_000  # so that FSDP2 has groups of one block and of two, and blocks that are in none
    Tensor.float, nn.Module.float = Tensor.double, nn.Module.double  # type: ignore[method-assign, assignment]
    if config.parallel.strategy.startswith("zero"):
        for name in ("engine", "zero.stage_1_and_2", "zero.stage3"):
            importlib.import_module(f"deepspeed.runtime.{name}")
        for name, module in list(sys.modules.items()):
            if name.startswith("deepspeed.") and hasattr(module, "torch"):
                module.torch = Doubles("torch")
    init(self, config, world, method.double(), adversary.double(), *more)


if __name__ == "__main__":
    Batch.to = batch_to  # type: ignore[method-assign, assignment]
    PretrainTask.__init__ = task  # type: ignore[method-assign]
    training.knn_auc = lambda features, labels: math.nan  # the scores' type is numpy's
    raise SystemExit(pretrain.main(sys.argv[1:]))
