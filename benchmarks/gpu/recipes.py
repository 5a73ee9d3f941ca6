"""A step of every kind of recipe, in 2D, in 3D and of fine-tuning, beside what the planner expects of it.

Each is built by its command's blueprint, as `plan` builds it; its batches are of noise and already on the device. The
last stage is timed. `waits`: operations of three steps for which the host waits.
"""

import gc
import time
import traceback
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.checks import absent
from benchmarks.gpu.loops import alone
from benchmarks.gpu.report import Job
from benchmarks.gpu.steady import WARM, WATCHED, watched
from benchmarks.gpu.table import cell
from benchmarks.synthetic import wait
from dira_scale.config.compose import compose
from dira_scale.data import distort
from dira_scale.distributed.precision import LossScale
from dira_scale.distributed.processes import start
from dira_scale.engine import optim, parallel
from dira_scale.engine.means import Means
from dira_scale.engine.nan_guard import NaNGuard
from dira_scale.engine.step import Step
from dira_scale.models.network import moved
from dira_scale.training.blueprint import blueprint_of
from dira_scale.training.schedule import stage_plans

LAST = "stages.di.epochs=0", "stages.dir.epochs=0"
TUNE3D = "views=tune_volumes", "model=unet3d", "data.size=[32,64,64]", "data.batch=8"
CLASSES = "task=masks", "task.classes={a: 1, b: 2}"
RECIPES = {
    "dira_moco": ("pretrain", "experiment=dira_moco", *LAST, "data.batch=64"),
    "models_genesis": ("pretrain", "experiment=models_genesis", "data.batch=64"),
    "dira_moco3d": ("pretrain", "experiment=dira_moco3d", *LAST, "data.batch=32"),
    "pcrl3d": ("pretrain", "experiment=pcrl3d", "data.batch=32"),
    "dira_transvw": ("pretrain", "experiment=dira_transvw", *LAST, "data.batch=8"),
    "mae3d": ("pretrain", "experiment=mae3d", "data.batch=2"),
    "mae3d, sparse": ("pretrain", "experiment=mae3d", "data.batch=2", "method.masking=sparse"),
    "finetune labels": ("finetune", "task=labels", "task.labels=[a,b,c]", "model.encoder=resnet50", "data.batch=128"),
    "finetune masks in 3D": ("finetune", *CLASSES, *TUNE3D),
}
SMALL = "data.batch=2", "precision=fp32", "parallel.threads=1"
NARROW = *SMALL, "model.bn_groups=1", "model.width=0.125", "data.size=[16,32,32]"
IMAGES = *SMALL, "model.encoder=test_resnet", "data.size=32"
CUBES = "model.features=[8,16,32]", "model.blocks=[1,1,1]", "data.size=[16,16,16]", "views.corruptions.mask.block=8"
TINY = {
    "dira_moco": (*IMAGES, "model.bn_groups=1", "method.base.queue=64", "model.decoder_channels=[32,16,16,8,8]"),
    "models_genesis": NARROW,
    "dira_moco3d": (*NARROW, "method.base.queue=64"),
    "pcrl3d": (*NARROW, "method.queue=64"),
    "dira_transvw": NARROW,
    "mae3d": (*SMALL, *CUBES),
    "mae3d, sparse": (*SMALL, *CUBES),
    "finetune labels": IMAGES,
    "finetune masks in 3D": NARROW,
}  # rehearsals
STEPS = 8  # timed


class Recipe:
    """The last stage of a command, on one process, with a batch on the device."""

    def __init__(self, command: str, *overrides: str) -> None:
        blueprint = blueprint_of(command, compose(command, ["data.shards=none", *overrides]))
        config = blueprint.config
        world = start(config.parallel, config.precision)
        self.device = world.device
        torch.manual_seed(config.seed)
        networks = blueprint.networks()
        for network in networks[1:]:
            moved(network, world.device, config.parallel.channels_last)
        task = blueprint.step(world, networks, distort.build_batched)
        plan = stage_plans(config, lambda batch: 1)[-1]
        strategy = parallel.build(world, config.parallel, networks[0])
        model = strategy.begin(
            lambda module: task.prepare(plan, module),
            lambda module: optim.stage_optimizer(config.optim, module, plan.batch),
            {},
        )
        guard, scale = NaNGuard(world.device), LossScale(config.precision == "fp16")
        self.samples = plan.batch
        self.take = Step(
            task, plan, model, guard, scale, Means(), config.seed, config.parallel.accumulate, world.device
        )
        self.batch = filled(blueprint.shapes.batch(plan.batch), world.device)

    def step(self, number: int) -> None:
        self.take(number, self.batch)


def filled(value: Any, device: torch.device) -> Any:
    """A batch, or a part of it, on the device, with noise in its pixels, and both answers among its labels."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: filled(getattr(value, field.name), device) for field in fields(value)}
        if "low" in parts and parts["low"] is not None:
            parts |= {"low": torch.zeros_like(parts["low"]), "high": torch.full_like(parts["high"], 255)}
        if parts.get("views"):
            parts["views"] = tuple(torch.randint_like(view, 255) for view in parts["views"])
        for name in ("labels", "mask", "index", "images", "flips"):
            if parts.get(name) is not None:
                parts[name] = _answers(parts[name])
        return replace(value, **parts)
    if isinstance(value, tuple):
        return tuple(filled(part, device) for part in value)
    if isinstance(value, dict):
        return {key: filled(part, device) for key, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def _answers(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_answers, value))
    return torch.arange(value.numel(), device=value.device).view(value.shape).remainder(2).to(value.dtype)


def measure(name: str, command: str, *overrides: str) -> dict[str, Any]:
    """Seconds a step, samples per second, peak memory and waits, beside what is expected."""
    with alone():
        recipe = Recipe(command, *overrides)
        if recipe.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for number in range(WARM):
            recipe.step(number)
        waits = watched(recipe.step, recipe.device)
        finish = wait(recipe.device)
        finish()
        start = time.perf_counter()
        for number in range(STEPS):
            recipe.step(WARM + WATCHED + number)
        finish()
        seconds = (time.perf_counter() - start) / STEPS
        peak = torch.cuda.max_memory_allocated() / 2**30 if recipe.device.type == "cuda" else None
    measured = {"seconds": seconds, "samples_per_second": recipe.samples / seconds, "peak_gib": peak, "waits": waits}
    return measured | expected(command, *overrides)


def expected(command: str, *overrides: str) -> dict[str, float]:
    """What the planner, which needs pyarrow, expects of one H200."""
    if absent("pyarrow"):
        return {}
    from dira_scale.forecast.estimate import planned

    row = planned(command, [*overrides, "machine=h200"], {"gpus": 1, "nodes": 1}).row
    return {"expected_seconds": row.step, "expected_gib": row.memory.peak / 2**30}


def run(job: Job) -> bool:
    """All of them that there is time for; whether all were fine."""
    began, result, fine = time.perf_counter(), dict[str, Any](), True
    for name, words in RECIPES.items():
        if time.perf_counter() - began > job.seconds:
            result[name] = {"why": "left out, the time was up"}
            continue
        try:
            result[name] = measure(name, *words, *(TINY[name] if job.rehearse else ("precision=bf16",)))
            fine &= result[name]["waits"]["fine"]
        except Exception as error:  # one that breaks must not cost the others
            traceback.print_exc()
            result[name], fine = {"why": f"{type(error).__name__}: {error}"}, False
        gc.collect()
        print(f"{name}: {result[name]}", flush=True)
        job.report.add(recipes=result)
    return fine


def table(recipes: dict[str, Any]) -> str:
    """The figures beside the planner's; where the host waited, the places."""
    lines = [f"{'a step of':<22}{'samples/s':>10}{'ms':>9}{'planned':>9}{'GiB':>7}{'planned':>9}  waits"]
    for name, row in recipes.items():
        if "why" in row:
            lines.append(f"{name:<22}{row['why']}")
            continue
        places, planned = row["waits"].get("places", []), row.get("expected_seconds")
        cells = [
            cell(row["samples_per_second"], 10, 1), cell(1e3 * row["seconds"], 9, 1),
            cell(planned and 1e3 * planned, 9, 1), cell(row["peak_gib"], 7, 1), cell(row.get("expected_gib"), 9, 1),
        ]  # fmt: skip
        lines.append(f"{name:<22}{''.join(cells)}  {sum(where['times'] for where in places)}")
        for where in places:
            lines += [f"    {where['times']} x {where['message']}", *(f"        {frame}" for frame in where["stack"])]
    return "\n".join(lines)
