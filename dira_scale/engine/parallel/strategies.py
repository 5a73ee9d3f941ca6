"""The strategies by name."""

from accelerate import Accelerator

from dira_scale.distributed.processes import Parallel
from dira_scale.engine.parallel.fsdp2 import FullyShard
from dira_scale.engine.parallel.strategy import Strategy
from dira_scale.engine.parallel.zero import ZeRO
from dira_scale.methods.method import Method


def build(parallel: Parallel, precision: str, accelerator: Accelerator, method: Method) -> Strategy:
    """The strategy ``parallel.strategy`` around ``method``."""
    match parallel.strategy:
        case "fsdp2":
            return FullyShard(accelerator, parallel, method)
        case "zero1" | "zero2" | "zero3":
            return ZeRO(accelerator, parallel, method, precision)
        case _:
            return Strategy(accelerator, parallel, method)
