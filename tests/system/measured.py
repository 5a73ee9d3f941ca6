"""``python measured.py OUT KEY=VALUE …``: pretrain, and tell what torch's allocator counts in the steps of each stage.

OUT gets, by stage, the bytes of what stays (parameters, buffers, states), the largest number of bytes that a step has
beside it on the CPU and altogether on a GPU, and the largest resident set of the process so far.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from dira_scale.data.batch import Batch
from dira_scale.pretrain import main
from dira_scale.train.loop import Trainer
from dira_scale.train.step import Step

found: dict[str, dict[str, int]] = {}
take = Step.__call__


def measured(self: Any, step: int, batch: Batch) -> None:
    """The step under torch's own record of allocations; a stage's first one, which makes the states, is not kept."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        take(self, step, batch)
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    states = [s for p in self.strategy.optimizer.state.values() for s in p.values() if torch.is_tensor(s)]
    found[",".join(self.stage.terms)] = {
        "parameters": size(self.method.parameters()),
        "buffers": size([*self.method.buffers(), *self.objective.distort.buffers()]),
        "optimizer": size(states),
        "step": peak,
        "peak": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def size(tensors: Any) -> int:
    """Bytes."""
    return sum(t.numel() * t.element_size() for t in tensors)


if __name__ == "__main__":
    Step.__call__ = measured  # type: ignore[method-assign]
    Trainer.save = lambda self: None  # type: ignore[method-assign]  # nobody goes on from here
    code = main(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps(found))
    raise SystemExit(code)
