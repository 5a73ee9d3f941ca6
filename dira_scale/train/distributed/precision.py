"""Precision: autocast over fp32 parameters, the same under every strategy; loss scaling for fp16."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dira_scale.base.machine.hardware import cpu_bf16
from dira_scale.train.distributed.config import AUTO

logger = logging.getLogger(__name__)
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose(precision: str, device: torch.device | None = None) -> str:
    """``precision``, or what ``auto`` stands for here: bf16 where the hardware computes it, otherwise fp32.

    A CPU without bfloat16 emulates it at a tenth of fp32's speed. ``device``: by default a GPU if there is one.
    """
    gpu = torch.cuda.is_available() if device is None else device.type == "cuda"
    if precision == "fp16" and not gpu:
        logger.warning(
            "precision=fp16 on a CPU, which has no fp16: expect minutes per step; precision=auto chooses a fast one"
        )
    if precision != AUTO:
        return precision
    native = torch.cuda.get_device_capability() >= (8, 0) if gpu else bool(cpu_bf16())
    return "bf16" if native else "fp32"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """16-bit operations where they are safe, over fp32 parameters."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype) if dtype is not None else nullcontext()


def set_fp32(precision: str) -> None:
    """Compute a GPU's fp32 matrix products and convolutions in IEEE fp32 for ``fp32``, else in tf32 (10-bit mantissa).

    By torch's older switches: torch.compile still reads these, and they raise once the newer ``fp32_precision`` is set.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "fp32"


class LossScale:
    """The factor that keeps fp16 gradients from underflowing (Micikevicius et al., ICLR 2018, sec. 3.2).

    Doubled after ``patience`` steps with finite gradients, halved after one without, which is skipped. Unless
    ``enabled``, the factor is 1 and no step is skipped. ``finite_steps`` counts those since the factor last changed.
    """

    def __init__(self, enabled: bool, value: float = 2.0**16, patience: int = 2000) -> None:
        self.enabled, self.patience = enabled, patience
        self.value, self.finite_steps = (value, 0) if enabled else (1.0, 0)

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        if self.enabled and gradients:
            torch._foreach_mul_(list(gradients), 1.0 / self.value)

    def skips(self, norm: Tensor) -> bool:
        """Return whether to skip a step with this gradient norm, the same on all ranks; updates the factor.

        One host synchronisation per step, in fp16 only.
        """
        if not self.enabled:
            return False
        if not bool(norm.isfinite()):
            if self.value == 1.0:
                return False  # not an overflow of the scaling: the NaN guard reports it
            self.value, self.finite_steps = max(1.0, self.value / 2), 0
            return True
        self.finite_steps += 1
        if self.finite_steps == self.patience:
            self.value, self.finite_steps = self.value * 2, 0
        return False
