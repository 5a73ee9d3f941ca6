"""CUDA kernel launches of a step, as the host makes them, by torch.profiler: what a step of little work is bound by."""

import re
import warnings
from collections.abc import Callable, Iterable

import torch
from torch.profiler import ProfilerActivity, profile

# CUPTI's names of the runtime's and the driver's calls: cudaLaunchKernel, cudaLaunchKernelExC, __cudaLaunchKernel,
# cudaLaunchCooperativeKernel, cuLaunchKernelEx, cudaGraphLaunch, … (torch/profiler/_utils.py has such a list, too).
LAUNCH = re.compile(r"(__)?cu(da)?(Launch(Cooperative)?Kernel|GraphLaunch)")


class NotCountedError(Exception):
    """Why launches cannot be counted here."""


def count(run: Callable[[], object], device: torch.device) -> int:
    """Launches of ``run``; a CUDA graph is one.

    Raises:
        NotCountedError: there is no GPU, or the profiler does not see its calls, as where a container forbids it.
    """
    if device.type != "cuda":
        raise NotCountedError("there is no GPU to launch on")
    torch.cuda.synchronize()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler,
        ):
            run()
            torch.cuda.synchronize()
        result = launches(event.name for event in profiler.events() or [])
    except Exception as error:
        raise NotCountedError(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not result:
        raise NotCountedError("torch.profiler sees no launches here (CUPTI may be forbidden)")
    return result


def launches(names: Iterable[str]) -> int:
    """How many of a trace's events are launches."""
    return sum(LAUNCH.match(name) is not None for name in names)
