"""Kernels of ours: whether they build and are right on the device where they are to be used, and how they start."""

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
# Of the largest value: float32's sums in another order; roundings to 16 bits.
NEAR = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 2e-2}


def work(subject: str, device: torch.device, compared: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> bool:
    """Return whether the kernels that ``compared`` calls build, and agree with torch's operations; warn if they do not.

    They run in a separate thread: the first use may be in a pass without gradients, with autocast, or recomputed.
    """

    def off() -> list[str]:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            shares = [(float((a - b).abs().max() / b.abs().max()), NEAR[a.dtype]) for a, b in compared()]
        return [f"{share:.0e}" for share, near in shares if not share <= near]  # a share may be no number

    try:
        with ThreadPoolExecutor(1) as thread:
            wrong = thread.submit(off).result()
        reason = f"their results are off by {', '.join(wrong)}" if wrong else ""
    except Exception as error:  # whatever a compiler of machine code says
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    if reason:
        logger.warning(
            "%s: torch's own operations are used, which are slower, as our kernels do not work here (%s)",
            subject,
            reason,
        )
    return not reason


class KernelLaunch:
    """A Triton kernel with a grid, counts and constants of its own, on tensors of one kind each time.

    What Triton works out of the arguments of each call, which takes the host longer than a small kernel the GPU, is
    kept of the first; tensors are handed over as addresses, of which the driver asks nothing. In the kernel's signature
    ``counts`` follow the tensors, and ``constants`` these.
    """

    def __init__(self, kernel: Any, grid: tuple[int, int], *counts: int, **constants: Any) -> None:
        self.kernel, self.grid, self.counts, self.constants = kernel, (*grid, 1), counts, constants
        self.fixed = *counts, *(constants[name] for name in kernel.arg_names if name in constants)
        self.start: Callable[..., None] | None = None

    def __call__(self, *tensors: Tensor) -> None:
        places = [x.data_ptr() for x in tensors]
        aligned = not any(place % 16 for place in places)  # machine code is kept of what may be read 16 bytes at once
        if self.start is not None and aligned:
            self.start(*places, *self.fixed)
            return
        compiled = self.kernel[self.grid](*tensors, *self.counts, **self.constants)
        if aligned and compiled is not None:  # Triton's interpreter compiles nothing
            self.start = compiled[self.grid]
