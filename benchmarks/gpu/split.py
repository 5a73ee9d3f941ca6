"""Where the time of a training step goes on the device: its parts, by events on the device's own clock.

Events mark where one part ends and the next begins, forward and backward; each interval counts for the part that began
it. Profilers report more but do not work everywhere; events cost almost nothing.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._pytree import tree_leaves

PARTS = ("query", "key", "decoder", "discriminator", "optimizer", "rest")
MADE = "_made_by_a_part"


class Split:
    """Milliseconds of a step by part, between entering and leaving this context.

    ``modules``: those of each part. A part's backward pass begins where the gradient of its output is known and ends
    where that of its input is, or where another's begins. ``rest`` has all that is in no part: distortion, losses,
    BatchNorm's running statistics, the guard, the momentum network's step, copies.
    """

    def __init__(self, modules: Mapping[str, Sequence[nn.Module]], device: torch.device) -> None:
        self.modules, self.device = modules, device
        self.marks: list[tuple[str, Any]] = []

    def __enter__(self) -> "Split":
        self.hooks = ExitStack()
        for part, modules in self.modules.items():
            for module in modules:
                self._hook(part, module)
        before = register_optimizer_step_pre_hook(lambda *_: self.mark("optimizer"))
        after = register_optimizer_step_post_hook(lambda *_: self.mark("rest"))
        backward = Tensor.backward

        def ended(tensor: Tensor, *args: Any, **kwargs: Any) -> None:
            backward(tensor, *args, **kwargs)
            self.mark("rest")  # what began last in a backward pass has ended with it

        for handle in (before, after):
            self.hooks.callback(handle.remove)
        self.hooks.enter_context(mock.patch.object(Tensor, "backward", ended))
        self.mark("rest")
        return self

    def __exit__(self, *_: object) -> None:
        self.mark("rest")
        self.hooks.close()

    def mark(self, part: str) -> None:
        """What follows on the device counts for ``part``."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append((part, event))
        else:
            self.marks.append((part, time.perf_counter()))

    def milliseconds(self) -> dict[str, float]:
        """By part, over all of the context; waits for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        result: dict[str, float] = defaultdict(float)
        for (part, begin), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            result[part] += begin.elapsed_time(end) if self.device.type == "cuda" else 1e3 * (end - begin)
        return {part: result[part] for part in PARTS}

    def _hook(self, part: str, module: nn.Module) -> None:
        def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            for tensor in _differentiable(inputs):
                if not hasattr(tensor, MADE):  # else the part that made it comes next
                    tensor.register_hook(lambda _: self.mark("rest"))
            self.mark(part)

        def leave(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self.mark("rest")
            for tensor in _differentiable(output):
                tensor.register_hook(lambda _: self.mark(part))
                setattr(tensor, MADE, True)

        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave)):
            self.hooks.callback(handle.remove)


def _differentiable(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor) and value.requires_grad]
