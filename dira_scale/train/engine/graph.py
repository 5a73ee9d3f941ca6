"""``parallel.graph``: the steps of a stage recorded and replayed, so that the host launches some graphs instead of
thousands of kernels. Weights are those of launched steps bit for bit.

Recorded are forward and backward passes, the guard, norms and statistics, momentum networks and queues. Optimizers,
whose rates are numbers, and messages to other processes are launched between.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dira_scale.base.machine.graphs import CudaGraphs, DeviceOnly, Graphs, Recording, recording
from dira_scale.train.distributed.config import AUTO, Parallel
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.task import TaskBatch
from dira_scale.train.models.norm import spans_ranks

LAUNCHED = 3  # steps of a stage before the first that is recorded: libraries choose kernels, optimizers make states
GRAPHS: dict[str, Callable[[torch.device], Graphs]] = {"cuda": CudaGraphs}
# GPU and torch by which `pytest -m gpu tests/train/engine/test_graph.py` has passed: there ``auto`` records.
PASSED: frozenset[tuple[str, str]] = frozenset()
Values = Sequence[Mapping[str, Tensor]]


class Recorder:
    """The steps of a stage on one process.

    Args:
        modules: whose attributes and gradients a recording that fails leaves as they were.
        tell: gets the line about a recording that fails.
        compiled: whether parts of them are; nothing may then look at operations one by one.
    """

    def __init__(
        self, device: torch.device, modules: Sequence[nn.Module], tell: Callable[[str], None], compiled: bool = False
    ) -> None:
        self.device, self.modules, self.tell, self.compiled = device, modules, tell, compiled
        self.graphs: Graphs | None = GRAPHS[device.type](device)
        self._taken = Counter[Any]()
        self._recorded: dict[Any, tuple[TaskBatch, Recording, Values]] = {}

    @property
    def begins(self) -> bool:
        """Return whether this is the first step. It has monitors, so that no later step needs to be launched with them,
        for whose memory there would be no room beside the graphs'."""
        return not self._taken

    def __call__(self, batch: TaskBatch, watched: bool, take: Callable[[Any], Values]) -> Values:
        """Take a step on ``batch``, with monitors if it is ``watched``: by ``take``, or by a recording of it. Return
        its values, which the next step may overwrite."""
        kind = watched, *((x.shape, x.dtype) for x in batch.tensors())
        if self.graphs is None or torch.autograd._profiler_enabled():  # a trace is to name what is done
            return take(batch)
        if kind in self._recorded:
            held, recording, values = self._recorded[kind]
            held.fill(batch)
            recording.replay()
            return values
        if self._taken.total() < LAUNCHED or not self._taken[kind]:
            self._taken[kind] += 1
            return take(batch)
        return self._record(self.graphs, kind, batch, take)

    def _record(self, graphs: Graphs, kind: Any, batch: TaskBatch, take: Callable[[Any], Values]) -> Values:
        recorded = self._attempt(graphs, batch, take)
        if isinstance(recorded, str):
            self.graphs, self._recorded = None, {}
            self.tell(f"parallel.graph: steps are launched, as recording one has failed at {recorded}")
            return take(batch)
        self._recorded[kind] = recorded
        _, recording, values = recorded
        if not graphs.runs:
            recording.replay()
        return values

    def _attempt(
        self, graphs: Graphs, batch: TaskBatch, take: Callable[[Any], Values]
    ) -> tuple[TaskBatch, Recording, Values] | str:
        """Return the recording, or where it has failed; nothing then holds its memory."""
        held, recording = batch.held(self.device), Recording(graphs)
        parts = [part for module in self.modules for part in module.modules()]
        before = [{k: copy(v) if isinstance(v, list | dict) else v for k, v in vars(part).items()} for part in parts]
        try:
            with nullcontext() if self.compiled else DeviceOnly():
                values = recording.of(lambda: take(held))
            for part, attributes in zip(parts, before, strict=True):
                _require_same(part, attributes)
            return held, recording, values
        except Exception as error:  # whatever a method does that no graph can
            place = _place(error)
        for part, attributes in zip(parts, before, strict=True):
            _restore(vars(part), attributes)
        for module in self.modules:
            module.zero_grad(set_to_none=True)
        return place


def _require_same(part: nn.Module, before: Mapping[str, Any]) -> None:
    """Raise RuntimeError if a step has given ``part`` other attributes: a replay would not."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, list | dict) and type(a) is type(b):
            pairs = zip(*((x.values() if isinstance(x, dict) else x) for x in (a, b)), strict=False)
            return len(a) == len(b) and all(x is y for x, y in pairs)
        return a is b or (isinstance(a, int | float | str) and a == b)

    after = vars(part)
    for name in before.keys() | after.keys():
        if name not in before or name not in after or not same(before[name], after[name]):
            raise RuntimeError(f"each step sets {type(part).__name__}.{name}: change a tensor in place")


def _restore(attributes: dict[str, Any], before: Mapping[str, Any]) -> None:
    for name in attributes.keys() - before.keys():
        del attributes[name]
    for name, value in before.items():
        now = attributes.get(name)
        if isinstance(now, dict) and isinstance(value, dict):  # others hold these
            now.clear()
            now.update(value)
        elif isinstance(now, list) and isinstance(value, list):
            now[:] = value
        else:
            attributes[name] = value


def updating(module: nn.Module, step: Callable[[], None]) -> Callable[[], None]:
    """Return an optimizer's ``step`` on ``module``. If a step is recorded, the result first gives the parameters back
    the gradients that replays write, which the step before has taken from them."""
    if not recording():
        return step
    gradients = [(parameter, parameter.grad) for parameter in module.parameters() if parameter.grad is not None]

    def update() -> None:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        step()

    return update


def recorder(
    parallel: Parallel, world: World, modules: Sequence[nn.Module], tell: Callable[..., None]
) -> Recorder | None:
    """Return what records a stage's steps, or None if all are launched; then ``tell`` gets the reason, unless nothing
    else could be expected.

    Args:
        modules: the stage's module, prepared for it, then its side modules.
        tell: gets a line, and ``detail=True`` if it is for log.txt alone.
    """
    if parallel.graph is False or (parallel.graph == AUTO and world.device.type not in GRAPHS):
        return None
    given = parallel.strategy, parallel.accumulate, parallel.checkpoint_activations, world.precision
    if reason := obstacle(*given, modules[0]) if world.device.type in GRAPHS else "a CPU has no graphs":
        tell(f"parallel.graph: steps are launched: {reason}", detail=True)
        return None
    if parallel.graph == AUTO and (world.ranks > 1 or not passed(world.device)):  # the tests are of one process
        where = " with torch ".join(kind(world.device))
        tell(
            "parallel.graph=true replays steps as CUDA graphs, faster for some 64 images a GPU and fewer; auto does so "
            f"on one GPU where its tests have passed, not yet on {where}"
        )
        return None
    return Recorder(world.device, modules, tell, parallel.compile)


def obstacle(strategy: str, accumulate: int, recomputes: bool, precision: str, module: nn.Module) -> str:
    """Return why steps of ``module`` cannot be recorded; empty if they can."""
    if strategy != "ddp":
        return f"strategy {strategy} gathers parameters layer by layer"
    if precision == "fp16":
        return "fp16 decides by each step's gradients whether weights move"
    if accumulate > 1:
        return f"parallel.accumulate={accumulate}"
    if recomputes:
        return "parallel.checkpoint_activations=true reads the state of random numbers"
    if spans_ranks(module):
        return "BatchNorm groups span processes"
    reasons = (getattr(part, "launched", "") for part in module.modules())
    return next(filter(None, reasons), "")


def kind(device: torch.device) -> tuple[str, str]:
    """GPU and torch, as in ``PASSED``."""
    return torch.cuda.get_device_name(device), torch.__version__.partition("+")[0]


def passed(device: torch.device) -> bool:
    return device.type != "cuda" or kind(device) in PASSED


def _place(error: Exception) -> str:
    """Return where code that is no library's raised ``error``, called by whom, and what it says."""
    libraries = Path(torch.__file__).parents[1]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if libraries not in Path(frame.filename).parents]
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"{', '.join(f'{frame.filename}:{frame.lineno}' for frame in own[:-3:-1])} ({what})"
