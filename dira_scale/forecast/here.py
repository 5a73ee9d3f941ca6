"""How fast this machine trains: an encoder is trained here for a moment."""

import time

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from dira_scale.distributed.precision import autocast, set_fp32

MEASURED_PIXELS = 8 * 224**2  # of a step on a CPU; a GPU gets its share of a batch
WARM_UP, MEASURED = 3, 3  # steps: oneDNN compiles its bf16 kernels in the first ones, which take ten times as long


def flops_per_second(encoder: str, size: int, images: int, precision: str) -> float:
    """Floating-point operations per second of one device that trains ``encoder`` on ``size``-pixel views."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = timm.create_model(encoder, num_classes=0).to(device, memory_format=torch.channels_last).train()
    images = images if device.type == "cuda" else min(images, MEASURED_PIXELS // size**2)
    views = torch.rand(images, 3, size, size, device=device).to(memory_format=torch.channels_last)

    set_fp32(precision)

    def step() -> None:
        with autocast(device, precision):
            loss = network(views).float().square().mean()
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    with FlopCounterMode(display=False) as counter:
        step()
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return float(counter.get_total_flops() / min(seconds[WARM_UP:]))
