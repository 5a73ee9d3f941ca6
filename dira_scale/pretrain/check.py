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
from dira_scale.methods.adversary import Adversary, adversary_of
from dira_scale.models.architecture import architecture
from dira_scale.pretrain.task import try_stages
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
    network["adversary"] = plain["adversary"]
    with suppress(RuntimeError), torch.device("meta"):  # of a user's own network that needs memory
        method, adversary = _networks(json.dumps(network))
        try_stages(config, method)
        optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")


@lru_cache(maxsize=64)
def _networks(text: str) -> tuple[methods.Method, Adversary]:
    """Method and adversary that a configuration's part says, as JSON. Their tensors have no memory."""
    cfg = OmegaConf.create(json.loads(text))
    views = methods.views_of(cfg)
    adversary = adversary_of(cfg.adversary.loss, cfg.adversary.penalty, architecture(cfg.model), views.size)
    return methods.construct(cfg.method, cfg.model, views), adversary
