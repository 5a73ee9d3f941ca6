"""``python measured.py OUT KEY=VALUE …``: pretrain, and tell what torch's allocator counts in the steps of each stage.

OUT gets, by stage, the bytes of what stays (parameters, buffers, states), the largest number of bytes that a step has
beside it on the CPU and altogether on a GPU. On the CPU without and with what a convolution's kernel takes for itself
and gives back before it ends: another processor's kernel takes another amount.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from dira_scale.pretrain import main
from dira_scale.train.data.batch import Batch
from dira_scale.train.engine.loop import Loop
from dira_scale.train.engine.step import Step

CONVOLUTION = "convolution"  # in the names of those operations
stages: dict[str, dict[str, int]] = {}
take = Step.__call__


def measured(self: Any, step: int, batch: Batch) -> None:
    """The step under torch's own record of allocations; a stage's first one, which makes the states, is not kept."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take(self, step, batch)
    peak, with_kernels = largest(profiler)
    states = [s for p in self.model.optimizer.state.values() for s in p.values() if torch.is_tensor(s)]
    parts = [self.model.module, *self.task.objective.distorts]
    stages[",".join(self.stage.terms)] = {
        "parameters": size(self.model.module.parameters()),
        "buffers": size({buffer for part in parts for buffer in part.buffers()}),
        "optimizer": size(states),
        "step": peak,
        "with kernels": with_kernels,
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
    }


def largest(profiler: profile) -> tuple[int, int]:
    """The most bytes alive, but for those that a convolution took and gave back within itself; and with them."""
    events = []  # when, where, how much more, in which convolution
    waiting = [(event, None) for event in profiler.profiler.kineto_results.experimental_event_tree()]
    while waiting:
        event, convolution = waiting.pop()
        if convolution is None and CONVOLUTION in event.name:
            convolution = event.id
        if event.tag == _EventType.Allocation:
            memory = event.extra_fields
            events.append((event.start_time_ns, memory.ptr, memory.alloc_size, convolution))
        waiting += [(child, convolution) for child in event.children]
    events.sort(key=lambda event: event[0])
    made: dict[int, int] = {}
    within: set[int] = set()
    for i, (_, address, more, convolution) in enumerate(events):
        if more > 0:
            made[address] = i
        elif convolution is not None and (first := made.pop(address, None)) is not None:
            within |= {first, i} if events[first][3] == convolution else set()
    live = kernels = peak = whole = 0
    for i, (_, _, more, _) in enumerate(events):
        live, kernels = live + (more if i not in within else 0), kernels + (more if i in within else 0)
        peak, whole = max(peak, live), max(whole, live + kernels)
    return peak, whole


def size(tensors: Any) -> int:
    """Bytes."""
    return sum(t.numel() * t.element_size() for t in tensors)


if __name__ == "__main__":
    Step.__call__ = measured  # type: ignore[method-assign]
    Loop.save = lambda self, stage: None  # type: ignore[method-assign]  # nobody goes on from here
    code = main(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps(stages))
    raise SystemExit(code)
