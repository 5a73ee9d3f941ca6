"""``python pretended.py JSON``: the waits of training steps, found on a machine without a GPU.

Tensors of a device that torch takes for one and that computes nothing: shapes and devices are followed through a real
step, values are not. Every operation then shows where its arguments lie, so what CUDA would have to wait for is seen:
a copy between host and device that is not asked for as non-blocking, or is of many bytes that are not pinned, a value
read by the host, a result whose size only the device knows, an index that is assigned a host's number. The JSON names
configurations: a command and its KEY=VALUEs. Printed, as JSON, is a list for each.
"""

import json
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
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

from benchmarks.gpu.pageable import pageable
from dira_scale.base.config.compose import compose
from dira_scale.finetune.blueprint import FinetuneBlueprint
from dira_scale.fleet.forecast.network import fake
from dira_scale.judge.tasks.labels import Classification
from dira_scale.train.blueprint import blueprint_of
from dira_scale.train.data import distort
from dira_scale.train.distributed.precision import LossScale
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim
from dira_scale.train.engine.config import NONE
from dira_scale.train.engine.means import HostCopy, Means
from dira_scale.train.engine.metrics_log import MetricsLog
from dira_scale.train.engine.nan_guard import NaNGuard
from dira_scale.train.engine.parallel import StageModel
from dira_scale.train.engine.state import RunState
from dira_scale.train.engine.step import Step
from dira_scale.train.models import kept_rows
from dira_scale.train.models.volume import eva_block
from dira_scale.train.schedule import stage_plans

ROOT = Path(__file__).parents[3] / "dira_scale"
SMALL = ("data.shards=none", "precision=bf16", "parallel.channels_last=false")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9}, "Adam": {}, "AdamW": {}, "RMSprop": {}, "Adagrad": {},
    "Lars": {"_target_": "timm.optim.Lars"}, "SGD, damped": {"_target_": "torch.optim.SGD", "dampening": 0.1},
    "AdamW, told not to be": {"_target_": "torch.optim.AdamW", "fused": False},
}  # fmt: skip
COPIES, ASSIGNMENTS = ("_to_copy", "copy_"), ("index_put_", "index_put", "_index_put_impl_")


def pretend() -> torch.device:
    """Have torch know a device of ours.

    ``torch.tensor`` copies what it is given in C++, where no mode sees it: from now on it does so in two steps.
    """

    class Module(backend_registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16, torch.float16]

    backend_registration._setup_privateuseone_for_python_backend("pretended", backend_module=Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    globals()["library"] = library  # it lasts as long as somebody has it
    on_host = torch.tensor

    def tensor(values: Any, *, device: Any = None, **more: Any) -> Tensor:
        if torch.device(device or "cpu").type == "cpu":
            return on_host(values, **more)
        # Of a number fake tensors keep the value, and would compute with it on the device.
        made = torch.full((), values, **more) if isinstance(values, bool | int | float) else on_host(values, **more)
        return made.to(device)

    def new_tensor(self: Tensor, values: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        return tensor(values, dtype=dtype or self.dtype, device=device or self.device)

    torch.tensor, Tensor.new_tensor = tensor, new_tensor  # type: ignore[assignment]
    return torch.device("pretended")


class Waits(TorchDispatchMode):
    """Notes each operation for which the host would wait, and the last line of the package that asked for it.

    What lies on the host is pinned where it is asked for so, and if it is of ``batch``, as loaders leave it.
    """

    def __init__(self, batch: Any = None) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pinned = _tensors(batch)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__.startswith("_fused_"):  # in place, and torch follows no shapes through SGD's
            return None
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            self.note(func, "the host needs a value of the device's")
            raise
        if kwargs.get("pin_memory"):
            self.pinned.append(result)
        name, given, made = func.overloadpacket.__name__, _devices((args, kwargs)), _devices(result)
        if pageable(func, args, kwargs, self.is_pinned):
            self.note(func, "a copy from memory that is not pinned")
        if name in COPIES and len(given | made) > 1:
            asynchronous = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            if not asynchronous or (made == {"cpu"} and name == "_to_copy"):  # of which nobody says when it is there
                self.note(func, "a copy that is waited for")
        elif name in ASSIGNMENTS and given != {"cpu"} and args[2].dim() == 0:
            self.note(func, "CUDA takes a number that is assigned to an index from the host")
        elif name.startswith("index") and len(given) > 1:
            self.note(func, "an index on the host")
        return result

    def is_pinned(self, tensor: Tensor) -> bool:
        """torch cannot say: of a pretended device nothing is."""
        return tensor.untyped_storage()._cdata in {each.untyped_storage()._cdata for each in self.pinned}

    def note(self, func: Any, why: str) -> None:
        frames = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(ROOT)]
        where = f"{Path(frames[-1].filename).name}: {frames[-1].line}" if frames else "?"
        self.found.append(f"{func}, {why}: {where}")


def _tensors(value: Any) -> list[Tensor]:
    """Those in dataclasses and containers."""
    if is_dataclass(value):
        value = [getattr(value, each.name) for each in fields(value)]
    if isinstance(value, dict | list | tuple):
        return [tensor for part in (value.values() if isinstance(value, dict) else value) for tensor in _tensors(part)]
    return [value] if isinstance(value, Tensor) else []


def _devices(values: Any) -> set[str]:
    return {value.device.type for value in tree_leaves(values) if isinstance(value, Tensor)}


def steps(device: torch.device, command: str, *overrides: str) -> list[str]:
    """The waits of a steady step of each stage, on batches that lie on the host: of the first one, or, as tables may be
    copied to the device once, of the second."""
    blueprint = blueprint_of(command, compose(command, [*SMALL, *overrides]))
    config, mode, actual = blueprint.config, FakeTensorMode(), []
    if isinstance(blueprint, FinetuneBlueprint) and getattr(config.task, "weights", None) == "balanced":
        supervision: Any = blueprint.supervision
        assert isinstance(supervision, Classification)
        blueprint.supervision = replace(supervision, weights=(2.0,) * len(supervision.outputs))
    accelerator: Any = SimpleNamespace(device=device, num_processes=1, process_index=0)
    with torch.device("meta"):
        networks = blueprint.networks()
    with mode:
        for network in networks:
            network._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device)).train()
        task = blueprint.step(World(accelerator, config.precision), networks, distort.build)
    for plan in stage_plans(config, lambda batch: 1):

        def prepare(module: nn.Module, plan: Any = plan) -> nn.Module:
            return task.prepare(plan, module)

        def make(module: nn.Module, plan: Any = plan) -> Optimizer:
            return optim.stage_optimizer(config.optim, module, plan.batch)

        with mode:
            model = StageModel(World(accelerator, config.precision), networks[0], prepare, make)
            guard, scale = NaNGuard(device), LossScale(config.precision == "fp16")
            step = Step(task, plan, model, guard, scale, Means(), config.seed, config.parallel.accumulate, device)
        batch: Any = fake(blueprint.shapes.batch(plan.batch), mode)
        logged: Any = SimpleNamespace(unit="samples")
        log = MetricsLog(logged, RunState(), None, NONE)
        log.begin(plan)
        log.means = step.means
        for number in (1, 2):
            with mode, Waits(batch) as waits:
                step(number, batch)
                log.begin_row(0.1, {"wait": 0.0}, [], guard)
            if not waits.found:
                break
        actual += waits.found
    return actual


def fused(device: torch.device) -> dict[str, bool]:
    """Whether an optimizer that is not told updates the parameters of ``device`` by fused kernels."""
    mode, chosen = FakeTensorMode(), {}
    for name, more in OPTIMIZERS.items():
        with mode:
            parameters = [nn.Parameter(torch.empty(3, device=device)) for _ in range(2)]
            named = {"_target_": f"torch.optim.{name}", "lr": 0.1} | more
            optimizer = optim.build(named, parameters, "optim.optimizer")
        chosen[name] = bool(optimizer.param_groups[0].get("fused"))
    return chosen


def planted(device: torch.device) -> dict[str, list[str]]:
    """Waits that must be found, and what only looks like one."""
    mode, actual = FakeTensorMode(), {}
    host = mode.from_tensor(torch.zeros(4))
    index = mode.from_tensor(torch.zeros(2, dtype=torch.long))
    there, index_there = host.to(device), index.to(device)
    few, many = (mode.from_tensor(torch.zeros(count)) for count in (2**14, 2**14 + 1))  # 64 KiB, and more
    batch = {"views": (many.clone(),)}
    room = many.to(device)
    cases: dict[str, Callable[[], Any]] = {
        "assign": lambda: there.__setitem__(index_there, 0),
        "item": lambda: there[0].item(),
        "if": lambda: bool(there[0] > 0),
        "to host": lambda: there.to("cpu"),
        "read": lambda: HostCopy(there).read()[0].tolist(),
        "to device": lambda: host.to(device),
        "list": lambda: torch.tensor([1.0, 2.0], device=device),
        "number": lambda: there.new_tensor(0.5),
        "copy": lambda: there.copy_(host),
        "pageable": lambda: many.to(device, non_blocking=True),
        "pageable copy": lambda: room.copy_(many, non_blocking=True),
        "pageable, computed": lambda: batch["views"][0].mul(2).to(device, non_blocking=True),
        "nonzero": lambda: there.nonzero(),
        "mask": lambda: there[there > 0],
        "host index": lambda: there[index],
        "fine: fill": lambda: there.index_fill_(0, index_there, 0),
        "fine: assign tensor": lambda: there.__setitem__(index_there, there[:2]),
        "fine: to host": lambda: HostCopy(there),
        "fine: to device": lambda: host.to(device, non_blocking=True),
        "fine: few": lambda: few.to(device, non_blocking=True),
        "fine: a batch": lambda: batch["views"][0][1:].to(device, non_blocking=True),
        "fine: pinned": lambda: torch.zeros(2**15, pin_memory=True).to(device, non_blocking=True),
        "fine: arithmetic": lambda: (there * 2 + 1).clamp(0, 1).where(there > 0, 0.0),
    }
    for name, run in cases.items():
        with mode, Waits(batch) as waits, suppress(DataDependentOutputException, DynamicOutputShapeException):
            run()
        actual[name] = waits.found
    return actual


if __name__ == "__main__":
    there = pretend()
    # Its autocast casts nothing, so products get what kernels have narrowed beside what is not.
    kept_rows.FakeTensor = eva_block.FakeTensor = type(None)  # type: ignore[assignment, misc]
    requested: dict[str, list[str]] = json.loads(sys.argv[1])
    actual = {name: steps(there, *words) for name, words in requested.items()}
    chosen = {"fused": fused(there), "unfused": fused(torch.device("cpu"))}
    print(json.dumps(actual | {"planted": planted(there)} | chosen))
