"""The device that a command computes on."""

import os

import torch

from dira_scale.base.errors import UserError
from dira_scale.base.machine.hardware import gpus
from dira_scale.base.machine.install import repair_torch, torch_build


def compute_device(chosen: str | None = None) -> torch.device:
    """The CPU where it is ``chosen``; otherwise the GPU where there is one, else the CPU.

    Raises UserError where the NVIDIA driver shows GPUs that this torch cannot use, unless CUDA_VISIBLE_DEVICES hides
    them: on the CPU the command would take days instead of an hour, and nobody would know why.
    """
    if chosen != "cpu" and torch.cuda.is_available():
        return torch.device("cuda")
    # CUDA stops at the first invalid entry, as -1 or nothing.
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    visible = first.isdigit() or first.startswith(("GPU-", "MIG-"))
    if chosen != "cpu" and visible and (present := gpus()[0]):
        raise UserError(
            f"the NVIDIA driver {present[0].driver} shows {len(present)} GPU(s) here, and torch {torch_build()} cannot "
            f"use them: {repair_torch()}; or set CUDA_VISIBLE_DEVICES= (empty) to compute on the CPU, or in training "
            "parallel.device=cpu"
        )
    return torch.device("cpu")
