"""Gradients that are the same in every run, bit for bit, of networks with attention on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def adds_in_any_order(module: nn.Module, device: torch.device) -> bool:
    """Whether the backward pass of ``module`` adds in another order each time: fused attention's does, on a GPU.

    Convolutions do not: ``distributed.processes.start`` selects cuDNN's deterministic algorithms.
    """
    return device.type == "cuda" and any(getattr(part, "fused_attn", False) for part in module.modules())


@contextmanager
def one_order(wanted: bool) -> Iterator[None]:
    """A backward pass within adds in one order, if ``wanted``: torch's fused attention then takes turns.

    torch's switch is for the whole process. An operation that has no such algorithm raises RuntimeError and names
    itself; ``tests/engine/test_determinism.py`` shows that our networks have none.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
