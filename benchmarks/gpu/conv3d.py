"""Are bf16 3D convolutions, which training on volumes will need, fast and right here? A probe of a few seconds.

Two convolutions of a 3D U-Net, forward and backward: 3 x 3 x 3, 32 -> 64 channels at full size and 128 -> 256 at a
quarter of it, in both memory formats. torch 2.9 with some versions of cuDNN was slow and wrong (pytorch #166122,
#166643). What is computed from the same bf16 values in IEEE fp32 is the reference.
"""

import math
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.gpu.clock import seconds
from benchmarks.gpu.peaks import peak
from dira_scale.distributed.precision import set_fp32

CROPS = ((16, (64, 64, 32)), (4, (96, 96, 96)))  # images of a batch, voxels
PAIRS = ((32, 64, 1), (128, 256, 4))  # channels in and out, how many times smaller each side is
LAYOUTS = {"NCDHW": torch.contiguous_format, "NDHWC": torch.channels_last_3d}
NEAR = 0.02  # of the largest value: several roundings to bf16's 8 bits
LIMIT = 15.0  # seconds


def probe(device: torch.device, small: bool) -> list[dict[str, Any]]:
    """A row for each crop, convolution and memory format."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # as in training
    set_fp32("fp32")
    end, rows = time.perf_counter() + LIMIT, []
    for batch, crop in ((2, (16, 16, 8)),) if small else CROPS:
        for channels, out, smaller in PAIRS[:1] if small else PAIRS:
            sides = tuple(side // smaller for side in crop)
            shape = f"{batch} x {'x'.join(map(str, sides))}, {channels} -> {out}"
            try:
                rows += [{"shape": shape} | row for row in compare(device, batch, sides, channels, out, end)]
            except Exception as error:  # nothing else depends on it
                rows.append({"shape": shape, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"})
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
    return rows


def compare(
    device: torch.device, batch: int, sides: tuple[int, ...], channels: int, out: int, end: float
) -> list[dict[str, Any]]:
    """A convolution's rows, or their lack where time is up."""
    torch.manual_seed(0)
    shapes = (batch, channels, *sides), (out, channels, 3, 3, 3), (batch, out, *sides)
    x, weight, gradient = (torch.randn(shape, device=device).bfloat16() for shape in shapes)
    expected: list[Tensor] = []
    rows: list[dict[str, Any]] = []
    for name, layout in LAYOUTS.items():
        if time.perf_counter() > end:
            rows.append({"layout": name, "failed": "left out, the time was up"})
            continue
        expected = expected or passes(x.float(), weight.float(), gradient.float())
        given = [tensor.to(memory_format=layout) for tensor in (x, weight, gradient)]
        result = passes(*given)
        taken = seconds(lambda: passes(*given), device, most=1)  # noqa: B023
        flops = 3 * 2 * 27 * channels * out * batch * math.prod(sides)
        most = peak(torch.cuda.get_device_name(), "bf16") if device.type == "cuda" else None
        off = max(float((a.float() - b).abs().max() / b.abs().max()) for a, b in zip(result, expected, strict=True))
        row = {"layout": name, "ms": 1e3 * taken, "tflops": flops / taken / 1e12, "off": off, "fine": off <= NEAR}
        rows.append(row | {"share_of_peak": flops / taken / 1e12 / most if most else None})
    return rows


def passes(x: Tensor, weight: Tensor, gradient: Tensor) -> list[Tensor]:
    """The result and the gradients of both, under autocast where they are bf16."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=x.dtype == torch.bfloat16):
        y = F.conv3d(x, weight, padding=1)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), gradient)]


def text(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = [f"{'bf16 conv3d, forward and backward':<36}{'':<7}{'ms':>8}{'TFLOP/s':>9}{'% peak':>8}{'off by':>9}"]
    for row in rows:
        start = f"{row['shape']:<36}{row.get('layout', ''):<7}"
        if "failed" in row:
            lines.append(f"{start}  {row['failed']}")
            continue
        share = f"{100 * row['share_of_peak']:.1f}" if row["share_of_peak"] else ""
        wrong = "" if row["fine"] else "  WRONG"
        lines.append(f"{start}{row['ms']:>8.2f}{row['tflops']:>9.2f}{share:>8}{row['off']:>9.0e}{wrong}")
    return "\n".join(lines)
