"""Pretraining without shards: the images are already on the device, so that only the step is timed."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn import functional as F

from dira_scale.base.config.compose import compose
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.pretrain.config import Pretrain
from dira_scale.pretrain.task import PretrainTask
from dira_scale.train import methods
from dira_scale.train.blueprint import Blueprint, blueprint_of
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.task import StagePlan
from dira_scale.train.methods import Method
from dira_scale.train.methods.adversary import Adversary
from dira_scale.train.models.network import moved
from dira_scale.train.schedule import stage_plans

if TYPE_CHECKING:
    from dira_scale.train.engine.loop import Loop

NEVER = 10**6  # steps
BATCHES = 4  # different ones, in turn
COARSE = 8  # noise is smooth: of so many values along an axis
# One long stage of all three terms, without validation or checkpoints.
ALONE = (
    "data.shards=none", "data.val_split=null", "stages.di.epochs=0", "stages.dir.epochs=0", "stages.dira.epochs=1",
    "stages.dira.patience=null", f"checkpoint.every={NEVER}",
)  # fmt: skip


def configuration(*overrides: str) -> tuple[DictConfig, Pretrain]:
    """``pretrain``'s configuration of one stage, ``dira``, and no data unless they are named; as composed, and as the
    schema's objects.

    Raises:
        UserError: of the overrides.
    """
    composed = compose("pretrain", [*ALONE, *overrides])
    config: Any = OmegaConf.to_object(composed)
    return composed, config


def networks(composed: DictConfig, config: Pretrain) -> tuple[Method, Adversary]:
    """Method and adversary, freshly drawn from the seed."""
    torch.manual_seed(config.seed)
    views = methods.views_of(composed)
    method = methods.build(composed.method, composed.model, views, config.data.batch)
    return method, PretrainBlueprint(composed).adversary()


def task(
    config: Pretrain, world: World, method: Method, adversary: Adversary, images: "SyntheticImages"
) -> PretrainTask:
    """Pretraining on ``images`` in the place of its data."""
    stages = stage_plans(config, images.steps_per_epoch)
    moved(adversary, world.device, config.parallel.channels_last)
    return PretrainTask(config, world, method, adversary, stages, images)  # type: ignore[arg-type]


def train(
    composed: DictConfig,
    config: Pretrain,
    world: World,
    method: Method,
    adversary: Adversary,
    images: "SyntheticImages",
) -> None:
    """Pretraining on ``images``, to its end, by the trainer that `pretrain` runs; ``images.trainer`` is it."""
    from dira_scale.train.engine.loop import Loop
    from dira_scale.train.engine.signals import Signals
    from dira_scale.train.runs.folder import RunFolder

    content: Any = OmegaConf.to_container(composed)
    run = RunFolder(Path(config.run), content)
    try:
        images.trainer = Loop(config, task(config, world, method, adversary, images), world, run)
        with Signals() as signals, closing(images.trainer):
            ended = images.trainer.train(signals)
    finally:
        run.release()
    if ended != "done":
        raise KeyboardInterrupt


def wait(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done all it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def blueprint(command: str, *words: str) -> Blueprint:
    """What ``command`` trains by these words, whatever its data."""
    return blueprint_of(command, compose(command, ["data.shards=none", *words]))


def batches(made: Blueprint, samples: int, device: torch.device) -> list[Any]:
    """Batches as a loader would return them, on ``device``; a function of their number."""
    return [
        filled(made.shapes.batch(samples), torch.Generator().manual_seed(number), device) for number in range(BATCHES)
    ]


def filled(value: Any, generator: torch.Generator, device: torch.device) -> Any:
    """A batch, or a part of it, on ``device``, with noise in its pixels, and both answers among its labels."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        if parts.get("low") is not None:
            parts |= {"low": torch.zeros_like(parts["low"]), "high": torch.full_like(parts["high"], 255)}
        if parts.get("views"):
            parts["views"] = tuple(noise(view, generator) for view in parts["views"])
        parts |= {k: answers(parts[k]) for k in ("labels", "mask", "index", "images", "flips") if k in parts}
        return replace(value, **{name: filled(part, generator, device) for name, part in parts.items()})
    if isinstance(value, tuple):
        return tuple(filled(part, generator, device) for part in value)
    if isinstance(value, dict):
        return {key: filled(part, generator, device) for key, part in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth noise from 0 to 255 in the place of a view [b, C, *size]."""
    coarse = torch.rand(*like.shape[:2], *[COARSE] * (like.dim() - 2), generator=generator)
    return (F.interpolate(coarse, like.shape[2:], mode={4: "bilinear", 5: "trilinear"}[like.dim()]) * 255).to(
        like.dtype
    )


def answers(value: Any) -> Any:
    """Zeros and ones in turn."""
    if isinstance(value, tuple):
        return tuple(map(answers, value))
    return value if value is None else torch.arange(value.numel()).view(value.shape).remainder(2).to(value.dtype)


class SyntheticImages:
    """Stands where the task has its data and its loader; :meth:`iterate` is the benchmark's own."""

    trainer: "Loop"

    def __init__(self, views: ViewSpec) -> None:
        self.views = views

    def seconds(self) -> dict[str, float]:
        return {"wait": 0.0}

    def steps_per_epoch(self, batch: int) -> int:
        return NEVER

    def held_out(self, *_: object) -> None:
        return None

    def loader(self, stage: StagePlan) -> "SyntheticImages":
        return self
