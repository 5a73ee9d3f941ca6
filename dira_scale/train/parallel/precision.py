"""Precision: autocast over fp32 parameters, entered by the loop the same way under every strategy."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bf16 where it is safe, over fp32 parameters."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype is not None else nullcontext()
