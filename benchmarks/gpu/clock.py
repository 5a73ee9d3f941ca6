"""How long the device takes for something small, again and again."""

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import synthetic

TURNS = 10


def seconds(run: Callable[[], object], device: torch.device, most: float = 10.0) -> float:
    """Of one ``run``, median over turns that wait for the device; the first is not counted.

    ``most``: seconds after which no other turn begins.
    """
    wait, began = synthetic.wait(device), time.perf_counter()
    result: list[float] = []
    while len(result) <= TURNS and (len(result) < 2 or time.perf_counter() - began < most):
        wait()
        start = time.perf_counter()
        run()
        wait()
        result.append(time.perf_counter() - start)
    return statistics.median(result[1:])
