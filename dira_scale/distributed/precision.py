"""Precision: autocast over fp32 parameters, the same under every strategy; loss scaling for fp16."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

# What autocast computes in; tf32 is what tensor cores make of fp32.
PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """16 bits where they are safe, over fp32 parameters."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device.type, dtype) if dtype is not None else nullcontext()


def set_fp32(precision: str) -> None:
    """What a GPU's fp32 matrix products and convolutions are: IEEE's for ``fp32``, else tf32 (10 bits of mantissa).

    By torch's older switches: torch.compile still reads these, and they raise once the newer ``fp32_precision`` is set.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


class LossScale:
    """The factor that keeps fp16's gradients from vanishing (Micikevicius et al., ICLR 2018, sec. 3.2).

    Doubled after ``patience`` steps whose gradients were numbers, halved by one whose were not; that step is skipped.

    Args:
        enabled: else the factor is 1 and nothing is skipped.
    """

    def __init__(self, enabled: bool, value: float = 2.0**16, patience: int = 2000) -> None:
        self.enabled, self.patience = enabled, patience
        self.value, self.sound = (value, 0) if enabled else (1.0, 0)

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide gradients by the factor, in place."""
        if self.enabled and gradients:
            torch._foreach_mul_(list(gradients), 1.0 / self.value)

    def skips(self, norm: Tensor) -> bool:
        """Whether a step of this gradient norm, the same on all ranks, is to be left out; moves the factor on.

        One host synchronisation a step, in fp16 only.
        """
        if not self.enabled:
            return False
        if not bool(norm.isfinite()):
            if self.value == 1.0:
                return False  # no overflow then: the guard tells of it
            self.value, self.sound = max(1.0, self.value / 2), 0
            return True
        self.sound += 1
        if self.sound == self.patience:
            self.value, self.sound = self.value * 2, 0
        return False
