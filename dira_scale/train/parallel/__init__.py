"""Processes, threads, devices, precision: how a run is spread over them."""

from dira_scale.train.parallel.agreement import from_main, on_main
from dira_scale.train.parallel.ddp import average_gradients, prepare, unsynchronised
from dira_scale.train.parallel.launch import default_threads, micro_batch, start
from dira_scale.train.parallel.precision import autocast
from dira_scale.train.parallel.recompute import checkpoint_activations

__all__ = [
    "autocast",
    "average_gradients",
    "checkpoint_activations",
    "default_threads",
    "from_main",
    "micro_batch",
    "on_main",
    "prepare",
    "start",
    "unsynchronised",
]
