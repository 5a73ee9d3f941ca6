"""Pretraining without shards: the images are already on the device, so that only the step is timed."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from dira_scale import methods
from dira_scale.config.compose import compose
from dira_scale.data.batch import Batch
from dira_scale.data.views import ViewSpec, draw
from dira_scale.distributed.world import World
from dira_scale.engine.task import StagePlan
from dira_scale.methods import Method
from dira_scale.methods.adversary import Adversary
from dira_scale.models.network import moved
from dira_scale.pretrain.blueprint import PretrainBlueprint
from dira_scale.pretrain.config import Pretrain
from dira_scale.pretrain.task import PretrainTask
from dira_scale.training.schedule import stage_plans

if TYPE_CHECKING:
    from dira_scale.engine.loop import Loop

NEVER = 10**6  # steps
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
    from dira_scale.engine.loop import Loop
    from dira_scale.engine.signals import Signals
    from dira_scale.runs.folder import RunFolder

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


def batch(views: ViewSpec, count: int, step: int, device: torch.device) -> Batch:
    """``count`` images of smooth noise, uint8 as stored, with their own crops' distortions; a function of ``step``."""
    generator = torch.Generator().manual_seed(step)
    index = np.arange(step * count, (step + 1) * count)
    sides = np.full(count, 2 * views.size)
    drawn = [draw(views, 0, 0, index, np.zeros_like(index), view, sides, sides) for view in range(views.count)]
    coarse = torch.rand((count, 1, 8, 8), generator=generator) * 255
    images = {
        entry.size: torch.nn.functional.interpolate(coarse, size=entry.size, mode="bilinear").to(torch.uint8).to(device)
        for entry in views.entries
    }
    return Batch(
        views=tuple(images[view.size] for view in views.each),
        distortions=tuple(distortion.to(device) for _, distortion in drawn),
        index=torch.from_numpy(index).to(device),
        low=torch.zeros(count, views.count, device=device),
        high=torch.full((count, views.count), 255.0, device=device),
        step=step,
        epoch=0,
        flips=tuple(torch.from_numpy(geometry.flip).to(device) for geometry, _ in drawn),
    )


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
