"""What `finetune` refuses before it looks at data: found without it, and without memory for tensors."""

import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dira_scale.finetune.held_out import check_crops
from dira_scale.finetune.network import random_network
from dira_scale.finetune.step import try_stages
from dira_scale.methods.build import check_dimensions, views_of
from dira_scale.metrics.libraries import require_libraries
from dira_scale.models.architecture import architecture
from dira_scale.tasks.config import task_of, without_data
from dira_scale.training.schedule import check_division, stage_plans


def check(cfg: DictConfig, ranks: int) -> None:
    """Build network, and every stage with its optimizer, of ``cfg``, composed for `finetune`, on ``ranks`` processes.

    Raises UserError as `finetune` would.
    """
    config: Any = OmegaConf.to_object(cfg)
    require_libraries()
    check_division(config, ranks)
    stage_plans(config, lambda _: 1)
    views = views_of(cfg)
    check_dimensions(config.model, views)
    check_crops(config, views, without_data(config.task))
    plain: Any = OmegaConf.to_container(cfg)
    with suppress(RuntimeError), torch.device("meta"):  # of a user's own network that needs memory
        try_stages(config, _network(json.dumps([plain["model"], plain["task"], config.data.size, config.channels])))


@lru_cache(maxsize=64)
def _network(text: str) -> nn.Module:
    """Of the nodes ``model`` and ``task``, a size and ``channels``, as JSON. Its tensors have no memory."""
    model, task, size, channels = json.loads(text)
    sides = size if isinstance(size, int) else tuple(size)
    return random_network(architecture(model), without_data(task_of(task)), sides, channels)
