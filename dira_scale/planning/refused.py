"""What `pretrain` refuses before it looks at data: found without it, and without memory for tensors."""

import json
from contextlib import suppress
from functools import lru_cache
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dira_scale import methods
from dira_scale.data.config import as_stored
from dira_scale.engine import optim
from dira_scale.methods.adversary import Adversary
from dira_scale.pretraining.task import try_stages
from dira_scale.training.schedule import check_division, stage_plans


def check(cfg: DictConfig, ranks: int) -> None:
    """Build networks, and every stage with its optimizer, of ``cfg``, composed for `pretrain`, on ``ranks`` processes.

    Configurations that differ in batches, rates and lengths alone share their networks.

    Raises UserError as `pretrain` would.
    """
    config: Any = OmegaConf.to_object(cfg)
    check_division(config, ranks)
    stage_plans(config, lambda _: 1)
    plain: Any = OmegaConf.to_container(cfg)
    model = plain["model"] | {"weights": None}
    data = {"size": config.data.size, **as_stored(plain["data"])}
    network = {"method": plain["method"], "model": model, "views": plain["views"], "data": data}
    with suppress(RuntimeError), torch.device("meta"):  # of a user's own network that needs memory
        try_stages(config, _network(json.dumps(network)))
        judge = list(_adversary(config.adversary.loss, config.model.dimensions).parameters())
        optim.build(config.optim.discriminator, judge, "optim.discriminator")


@lru_cache(maxsize=64)
def _network(text: str) -> methods.Method:
    """The method that a configuration's part says, as JSON. Its tensors have no memory."""
    cfg = OmegaConf.create(json.loads(text))
    return methods.construct(cfg.method, cfg.model, methods.views_of(cfg))


@lru_cache
def _adversary(loss: str, dimensions: int) -> Adversary:
    return Adversary(loss, dimensions)
