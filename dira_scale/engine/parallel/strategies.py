"""The strategies by name."""

from accelerate import Accelerator

from dira_scale.config.compose import Pretrain
from dira_scale.engine.parallel.fsdp2 import FullyShard
from dira_scale.engine.parallel.strategy import Strategy
from dira_scale.engine.parallel.zero import ZeRO
from dira_scale.methods.method import Method


def build(config: Pretrain, accelerator: Accelerator, method: Method) -> Strategy:
    """The strategy ``parallel.strategy`` around ``method``."""
    match config.parallel.strategy:
        case "fsdp2":
            return FullyShard(accelerator, config.parallel, method)
        case "zero1" | "zero2" | "zero3":
            return ZeRO(accelerator, config.parallel, method, config.precision)
        case _:
            return Strategy(accelerator, config.parallel, method)
