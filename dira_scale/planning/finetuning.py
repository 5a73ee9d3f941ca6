"""The plan of a `finetune` that a sweep starts: its own step, rehearsed without memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch._subclasses.fake_tensor import FakeTensorMode

from dira_scale.config.compose import compose
from dira_scale.data import distort
from dira_scale.distributed.config import AUTO
from dira_scale.evaluation.finetune.config import Finetune
from dira_scale.evaluation.finetune.network import random_network, without_data
from dira_scale.evaluation.finetune.step import Finetuning
from dira_scale.methods import views_of
from dira_scale.planning.configured import Configured, of_run
from dira_scale.planning.estimate import rehearse_stages
from dira_scale.planning.network import FakeTask, fake_world, without_memory
from dira_scale.planning.shards import planned_inputs
from dira_scale.training.schedule import check_division, stage_plans
from dira_scale.training.shapes import ViewShapes

UNKNOWN = "data.shards=unknown"  # of data that another run of the sweep makes first


def planned(words: Sequence[str], machine: Mapping[str, object]) -> Configured:
    """Of a `finetune` with these ``words`` on a ``machine``, by the keys of ``plan.*``.

    Raises UserError if ``data.shards`` cannot be opened, or the processes cannot divide the batch.
    """
    exists = any(word.startswith("data.shards=") for word in words)
    cfg = compose("finetune", [*words, *([] if exists else [UNKNOWN])])
    config: Any = OmegaConf.to_object(cfg)
    if config.precision == AUTO:  # the planned GPUs compute bfloat16, whatever the machine that plans
        config.precision = "bf16"
    plan: Any = OmegaConf.to_object(compose("plan", [f"plan.{key}={value}" for key, value in machine.items()]))
    ranks, loading = plan.plan.nodes * plan.plan.gpus, 0.0
    check_division(config, ranks)
    if exists:
        plan.plan.images, loading = planned_inputs(config, views_of(cfg), ranks)
    plain = rehearse_stages(lambda: fake_finetuning(config, cfg), config, ranks)
    again = config.parallel.checkpoint_activations
    rehearsed = rehearse_stages(lambda: fake_finetuning(config, cfg), config, ranks, True) if again else plain
    return of_run(config, plan.plan, rehearsed, plain, loading)


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
