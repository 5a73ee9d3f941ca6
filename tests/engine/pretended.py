"""``python pretended.py JSON``: the waits of training steps, found on a machine without a GPU.

Tensors of a device that torch takes for one and that computes nothing: shapes and devices are followed through a real
step, values are not. Every operation then shows where its arguments lie, so what CUDA would have to wait for is seen:
a copy between host and device that is not asked for as non-blocking, a value read by the host, a result whose size only
the device knows, an index that is assigned a host's number. The JSON names configurations: their stages and their
KEY=VALUEs. Printed, as JSON, is a list for each.
"""

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.optim import Optimizer
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import synthetic
from dira_scale.distributed.precision import LossScale
from dira_scale.distributed.world import World
from dira_scale.engine import optim
from dira_scale.engine.means import Means
from dira_scale.engine.nan_guard import NaNGuard
from dira_scale.engine.parallel import StageModel
from dira_scale.engine.step import Step
from dira_scale.engine.task import StagePlan
from dira_scale.forecast.network import fake

ROOT = Path(__file__).parents[2] / "dira_scale"
COPIES, ASSIGNMENTS = ("_to_copy", "copy_"), ("index_put_", "index_put", "_index_put_impl_")


def pretend() -> torch.device:
    """Have torch know a device of ours."""

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    backend_registration._setup_privateuseone_for_python_backend("pretended", backend_module=Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    globals()["library"] = library  # it lasts as long as somebody has it
    return torch.device("pretended")


class Waits(TorchDispatchMode):
    """Notes each operation for which the host would wait, and the last line of the package that asked for it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            self.note(func, "the host needs a value of the device's")
            raise
        name, given, made = func.overloadpacket.__name__, _devices((args, kwargs)), _devices(result)
        if name in COPIES and len(given | made) > 1:
            asynchronous = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            if made == {"cpu"} or not asynchronous:
                self.note(func, "a copy that is waited for")
        elif name in ASSIGNMENTS and given != {"cpu"} and args[2].dim() == 0:
            self.note(func, "CUDA takes a number that is assigned to an index from the host")
        elif name.startswith("index") and len(given) > 1:
            self.note(func, "an index on the host")
        return result

    def note(self, func: Any, why: str) -> None:
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT)]
        where = f"{Path(frames[-1].filename).name}: {frames[-1].line}" if frames else "?"
        self.found.append(f"{func}, {why}: {where}")


def _devices(values: Any) -> set[str]:
    return {value.device.type for value in tree_leaves(values) if isinstance(value, Tensor)}


def moved(module: nn.Module, mode: FakeTensorMode, device: torch.device) -> nn.Module:
    """Its tensors pretended, on the device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                there = mode.from_tensor(parameter.detach()).to(device)
                part._parameters[name] = nn.Parameter(there, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = mode.from_tensor(buffer).to(device)
    return module


def steps(device: torch.device, stages: Sequence[str], *overrides: str) -> list[str]:
    """The waits of a first step of each stage, on batches that lie on the host."""
    composed, config = synthetic.configuration("parallel.channels_last=false", "precision=bf16", *overrides)
    mode, actual = FakeTensorMode(), []
    method, adversary = synthetic.networks(composed, config)
    views = method.views
    alone: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0)
    task = synthetic.task(config, World(alone, config.precision), method, adversary, synthetic.SyntheticImages(views))
    for module in (method, adversary, *dict.fromkeys(task.objective.distorts)):
        moved(module, mode, device)
    alone.device = device
    for number, name in enumerate(stages, start=1):
        stage = config.stages[name]
        plan = StagePlan(name, config.data.batch, steps=1, per_epoch=1, terms=tuple(stage.terms))

        def prepare(module: nn.Module, plan: StagePlan = plan) -> nn.Module:
            return task.prepare(plan, module)

        def make(module: nn.Module) -> Optimizer:
            return optim.stage_optimizer(config.optim, module, config.data.batch)

        with mode:
            model = StageModel(task.objective.world, method, prepare, make, {})
            guard, scale = NaNGuard(device), LossScale(config.precision == "fp16")
            step = Step(task, plan, model, guard, scale, Means(), config.seed, config.parallel.accumulate, device)
        batch = fake(synthetic.batch(views, config.data.batch, number, torch.device("cpu")), mode)
        with mode, Waits() as waits:
            step(number, batch)
        actual += waits.found
    return actual


def planted(device: torch.device) -> dict[str, list[str]]:
    """Waits that must be found, and what only looks like one."""
    mode, actual = FakeTensorMode(), {}
    host = mode.from_tensor(torch.zeros(4))
    index = mode.from_tensor(torch.zeros(2, dtype=torch.long))
    there, index_there = host.to(device), index.to(device)
    cases: dict[str, Callable[[], Any]] = {
        "assign": lambda: there.__setitem__(index_there, 0),
        "item": lambda: there[0].item(),
        "if": lambda: bool(there[0] > 0),
        "to host": lambda: there.to("cpu"),
        "to device": lambda: host.to(device),
        "copy": lambda: there.copy_(host),
        "nonzero": lambda: there.nonzero(),
        "mask": lambda: there[there > 0],
        "host index": lambda: there[index],
        "fine: fill": lambda: there.index_fill_(0, index_there, 0),
        "fine: assign tensor": lambda: there.__setitem__(index_there, there[:2]),
        "fine: to device": lambda: host.to(device, non_blocking=True),
        "fine: arithmetic": lambda: (there * 2 + 1).clamp(0, 1).where(there > 0, 0.0),
    }
    for name, run in cases.items():
        with mode, Waits() as waits, suppress(DataDependentOutputException, DynamicOutputShapeException):
            run()
        actual[name] = waits.found
    return actual


if __name__ == "__main__":
    there = pretend()
    requested: dict[str, tuple[list[str], list[str]]] = json.loads(sys.argv[1])
    actual = {name: steps(there, stages, *words) for name, (stages, words) in requested.items()}
    print(json.dumps(actual | {"planted": planted(there)}))
