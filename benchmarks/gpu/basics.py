"""The machine, its GPU's limit, a bf16 product, and whether its bf16 3D convolutions are fast and right."""

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import synthetic
from benchmarks.gpu.report import Job
from dira_scale.distributed.precision import set_fp32
from dira_scale.machine.hardware import hardware
from dira_scale.runs.environment import environment

TURNS = 10
# Dense TFLOP/s (no sparsity) of IEEE fp32, tf32 and bf16 products by the vendors' data sheets, by a part of torch's
# name of the device; the first that fits counts. None: the device has no such unit.
PEAKS: dict[str, tuple[float, float | None, float | None]] = {
    "B200": (75.0, 1100.0, 2250.0),
    "H200": (67.0, 494.5, 989.0),  # and GH200
    "H100 PCIe": (51.0, 378.0, 756.0),
    "H100 NVL": (60.0, 417.5, 835.0),
    "H100": (67.0, 494.5, 989.0),
    "A100": (19.5, 156.0, 312.0),
    "A10G": (31.5, 35.0, 70.0),
    "A10": (31.2, 62.5, 125.0),
    "L40S": (91.6, 183.0, 362.0),
    "L4": (30.3, 60.0, 121.0),
    "RTX 4090": (82.6, 82.6, 165.2),
    "RTX 3090": (35.6, 35.6, 71.0),
    "V100": (15.7, None, None),
    "T4": (8.1, None, None),
}
KINDS = ("fp32", "tf32", "bf16")
# Of a small 3D U-Net: images, channels in and out, voxels of a 3 x 3 x 3 convolution.
CONVOLUTIONS = ((16, 32, 64, (64, 64, 32)), (16, 128, 256, (16, 16, 8)), (4, 32, 64, (96, 96, 96)))
LAYOUTS = {"NCDHW": torch.contiguous_format, "NDHWC": torch.channels_last_3d}
NEAR = 0.02  # of the largest value: several roundings to bf16's 8 bits


def peak(device: str, kind: str) -> float | None:
    """TFLOP/s of products of ``kind`` (``fp32``, ``tf32`` or ``bf16``) on ``device``; None where it is not known."""
    for part, figures in PEAKS.items():
        if part in device:
            return figures[KINDS.index(kind)]
    return None


def seconds(run: Callable[[], object], device: torch.device, most: float = 10.0) -> float:
    """Seconds of one ``run``, median over turns that wait for the device; the first is not counted.

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


def machine() -> dict[str, str]:
    """Device, driver, libraries."""
    result = {name: f"{value}" for name, value in environment().items() if value}
    for gpu in hardware().gpus:
        result["GPU"] = f"{gpu.name}, {gpu.memory_gib} GiB, driver {gpu.driver}"
    return result | {"CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"}


def product(device: torch.device, small: bool) -> dict[str, str]:
    """A large bf16 product: more than any step can reach."""
    side = 256 if small else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return {"bf16 product": f"{reached(2 * side**3, seconds(lambda: a @ b, device), device)} ({side}³, random)"}


def reached(operations: float, taken: float, device: torch.device) -> str:
    """TFLOP/s of bf16 in words, with the share of the vendor's figure where that is known."""
    most = peak(torch.cuda.get_device_name(), "bf16") if device.type == "cuda" else None
    speed = operations / taken / 1e12
    return f"{speed:.1f} TFLOP/s" + (f", {100 * speed / most:.0f} % of the vendor's figure" if most else "")


def convolutions(device: torch.device, small: bool) -> dict[str, str]:
    """bf16 3D convolutions, forward and backward, in both memory formats.

    torch 2.9 with some versions of cuDNN was slow and wrong (pytorch #166122, #166643). The reference is IEEE fp32 of
    the same values.
    """
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # as in training
    set_fp32("fp32")
    found = {}
    for count, channels, out, sides in ((2, 8, 16, (16, 16, 8)),) if small else CONVOLUTIONS:
        shapes = (count, channels, *sides), (out, channels, 3, 3, 3), (count, out, *sides)
        x, weight, gradient = (torch.randn(shape, device=device).bfloat16() for shape in shapes)
        operations = 3 * 2 * 27 * channels * out * count * math.prod(sides)
        for name, layout in LAYOUTS.items():
            try:
                expected = passes(x.float(), weight.float(), gradient.float())
                given = [tensor.to(memory_format=layout) for tensor in (x, weight, gradient)]
                pairs = zip(passes(*given), expected, strict=True)
                off = max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)
                taken = seconds(lambda: passes(*given), device, most=1)  # noqa: B023
                printed = f"{1e3 * taken:.2f} ms, {reached(operations, taken, device)}, off by {off:.0e}"
                printed += "" if off <= NEAR else "  WRONG"
            except Exception as error:  # nothing else depends on it
                printed = f"not known, {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            shape = f"{count} x {'x'.join(map(str, sides))}, {channels} -> {out}"
            found[f"bf16 conv3d, {shape}, {name}"] = printed
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
    return found


def passes(x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """The result and the gradients of both, under autocast where they are bf16."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        y = F.conv3d(x, weight, padding=1)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient)]


def run(job: Job) -> bool:
    """All of it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    job.report.add(environment=machine())
    basics = product(device, job.rehearse)
    job.report.add(basics=basics)
    job.report.add(basics=basics | convolutions(device, job.rehearse))
    return True
