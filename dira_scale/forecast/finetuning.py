"""The plan of a `finetune`: its own step, rehearsed without memory."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch._subclasses.fake_tensor import FakeTensorMode

from dira_scale.config.compose import compose
from dira_scale.data import distort
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.network import random_network
from dira_scale.finetune.step import Finetuning
from dira_scale.forecast.configured import Configured, configured_run
from dira_scale.forecast.estimate import Rehearsals, rehearse_stages
from dira_scale.forecast.network import FakeTask, fake_world, without_memory
from dira_scale.methods import views_of
from dira_scale.tasks.config import without_data
from dira_scale.training.schedule import stage_plans
from dira_scale.training.shapes import ViewShapes


def planned(words: Sequence[str], machine: Mapping[str, object]) -> Configured:
    """Of a `finetune` with these ``words`` on a ``machine``, by the keys of ``plan.*``.

    Raises UserError if ``data.shards`` cannot be opened, or the processes cannot divide the batch.
    """
    cfg = compose("plan_finetune", [*words, *(f"plan.{key}={value}" for key, value in machine.items())])
    config: Any = OmegaConf.to_object(cfg)
    return configured_run(config, cfg, partial(rehearse_finetuning, config, cfg))


def rehearse_finetuning(
    config: Finetune, cfg: DictConfig, ranks: int, checkpointing: bool, done: Callable[[], None]
) -> Rehearsals:
    """Rehearse a step of every stage as :func:`rehearse_stages` does."""
    return rehearse_stages(lambda: fake_finetuning(config, cfg), config, ranks, checkpointing, done)


def fake_finetuning(config: Finetune, cfg: DictConfig) -> FakeTask:
    """The task of ``finetune``, with 8-bit grey images."""
    mode, world, views = FakeTensorMode(), fake_world(config.precision), views_of(cfg)
    supervision = without_data(config.task)
    with torch.device("meta"):
        network = random_network(config.model, supervision, views.size, config.channels)
    without_memory(network, mode, config.parallel.channels_last)
    network.train()
    with mode:
        task = Finetuning(config, world, network, supervision, views, distort.build_batched)  # as on a GPU
    labels = len(supervision.outputs) if supervision.pooled else None
    shapes = ViewShapes(views, labels=labels, mask=not supervision.pooled)
    return FakeTask(task, stage_plans(config, lambda batch: 1), shapes, mode, world, [*task.distort.buffers()])
