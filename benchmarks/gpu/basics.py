"""The machine, a bf16 product, and whether its bf16 layers of volumes are fast and right, in both memory formats."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import synthetic
from benchmarks.gpu import items
from benchmarks.gpu.report import Job, figure
from dira_scale.base.machine.hardware import hardware
from dira_scale.fleet.forecast.ledger import Ledger
from dira_scale.train.distributed.precision import set_fp32
from dira_scale.train.runs.environment import environment

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
Layer = tuple[Callable[[], nn.Module], tuple[int, ...]]  # what makes it; the shape of what it is given
# Of 3D U-Nets: a small one's convolutions; the first, which has one channel, and the heaviest, after a concatenation.
LAYERS: dict[str, Layer] = {
    "conv 32 -> 64": (lambda: nn.Conv3d(32, 64, 3, padding=1), (16, 32, 64, 64, 32)),
    "conv 128 -> 256": (lambda: nn.Conv3d(128, 256, 3, padding=1), (16, 128, 16, 16, 8)),
    "conv 32 -> 64 of 96^3": (lambda: nn.Conv3d(32, 64, 3, padding=1), (4, 32, 96, 96, 96)),
    "conv 1 -> 32": (lambda: nn.Conv3d(1, 32, 3, padding=1), (16, 1, 64, 64, 32)),
    "conv 192 -> 64": (lambda: nn.Conv3d(192, 64, 3, padding=1), (16, 192, 64, 64, 32)),
    "conv 32 -> 64, stride 2": (lambda: nn.Conv3d(32, 64, 3, 2, padding=1), (16, 32, 64, 64, 32)),
    "transposed conv 128 -> 64": (lambda: nn.ConvTranspose3d(128, 64, 2, 2), (16, 128, 32, 32, 16)),
    "BatchNorm 64": (lambda: nn.BatchNorm3d(64), (16, 64, 64, 64, 32)),
    "InstanceNorm 64": (lambda: nn.InstanceNorm3d(64, affine=True), (16, 64, 64, 64, 32)),
}
LAYOUTS = {"NCDHW": torch.contiguous_format, "NDHWC": torch.channels_last_3d}
NEAR = 0.02  # of the largest value: several roundings to bf16's 8 bits
# FLOP/s and bytes/s that the planner expects of an H200 (configs/machine/h200.yaml).
SUSTAINED, BANDWIDTH = 330e12, 1.85e12


def peak(device: str, kind: str) -> float | None:
    """TFLOP/s of products of ``kind`` (one of ``KINDS``, or ``fp16``) on ``device``; None where it is not known."""
    for part, figures in PEAKS.items():
        if part in device:
            return figures[KINDS.index("bf16" if kind == "fp16" else kind)]
    return None


def seconds(run: Callable[[], object], device: torch.device, most: float = 1.0) -> float:
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


def expected_ms(ledger: Ledger, precision: str) -> float:
    """Return what the planner expects of work recorded in fp32: bf16 computes it twice as fast, and moves half."""
    share, work = 1 if precision == "bf16" else 2, ledger.work
    return 1e3 * (share * work.flops / SUSTAINED + share * work.moved / 2 / BANDWIDTH)


def machine() -> dict[str, str]:
    """Device, driver, libraries."""
    unwanted = ("host", "command")  # of one's own
    result = {name: f"{value}" for name, value in environment().items() if value and name not in unwanted}
    for gpu in hardware().gpus:
        result["GPU"] = f"{gpu.name}, {gpu.memory_gib} GiB, driver {gpu.driver}"
    return result | {"CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"}


def product(device: torch.device, small: bool) -> dict[str, Any]:
    """A large bf16 product: more than any step can reach."""
    side = 256 if small else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    reached = 2 * side**3 / seconds(lambda: a @ b, device) / 1e12
    most = peak(torch.cuda.get_device_name(), "bf16") if device.type == "cuda" else None
    return {"figures": {"bf16": figure(reached, "TFLOP/s", most, f"{side}^3, random; the vendor's figure is expected")}}


def layer(device: torch.device, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> dict[str, Any]:
    """A bf16 layer of volumes, forward and backward, in both memory formats, by reproducible algorithms and any.

    torch 2.9 with some versions of cuDNN was slow and wrong (pytorch #166122, #166643). The reference is IEEE fp32 of
    the same values.
    """
    set_fp32("fp32")
    torch.manual_seed(0)
    module, x = make().to(device), torch.randn(shape, device=device).bfloat16()
    gradient = torch.randn_like(module(x.float())).bfloat16()
    with Ledger([]) as ledger:
        right = passes(module, x.float(), gradient.float())
    expected = expected_ms(ledger, "bf16")
    figures = {}
    for name, layout in LAYOUTS.items():
        for free in (False, True):
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = not free, free
            module.to(memory_format=layout)  # type: ignore[call-overload]
            given = module, x.to(memory_format=layout), gradient.to(memory_format=layout)
            pairs = zip(passes(*given), right, strict=True)
            off = max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in pairs)
            taken = seconds(lambda: passes(*given), device, most=0.3)  # noqa: B023
            note = f"off by {off:.0e}{'' if off <= NEAR else '  WRONG'}"
            figures[name + ", any algorithm" * free] = figure(1e3 * taken, "ms", expected, note, off <= NEAR)
    return {"figures": figures}


def passes(module: nn.Module, x: Tensor, gradient: Tensor) -> list[Tensor]:
    """The result and the gradients of input and weights, under autocast where they are bf16."""
    x = x.detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        y = module(x)
    return [y.detach(), *torch.autograd.grad(y, (x, next(module.parameters())), gradient.to(y.dtype))]


def run(job: Job) -> bool:
    """All of it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    each: dict[str, items.Item] = {"product": partial(product, device, job.rehearse)}
    for name, (make, shape) in LAYERS.items():
        each[name] = partial(layer, device, make, (2, shape[1], *[8] * 3) if job.rehearse else shape)
    return items.run(job, each)
