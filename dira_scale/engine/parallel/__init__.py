"""Processes, threads, devices, precision: how a run is spread over them."""

from dira_scale.distributed.control import from_main, on_main, together
from dira_scale.distributed.precision import LossScale, autocast
from dira_scale.distributed.processes import default_threads, leave, start
from dira_scale.engine.parallel.ddp import average_gradients
from dira_scale.engine.parallel.recompute import checkpoint_activations
from dira_scale.engine.parallel.strategies import build
from dira_scale.engine.parallel.strategy import Strategy
from dira_scale.engine.parallel.zero import refuse_layerwise

__all__ = [
    "LossScale",
    "Strategy",
    "autocast",
    "average_gradients",
    "build",
    "checkpoint_activations",
    "default_threads",
    "from_main",
    "leave",
    "on_main",
    "refuse_layerwise",
    "start",
    "together",
]
