"""What `pretrain` refuses before it looks at data: found without it, and without memory for tensors."""

from contextlib import suppress
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dira_scale.engine import optim
from dira_scale.methods import views_of
from dira_scale.methods.adversary import Adversary
from dira_scale.pretraining.process_counts import check_division
from dira_scale.pretraining.schedule import stage_plans
from dira_scale.pretraining.task import build_method


def check(cfg: DictConfig, ranks: int) -> None:
    """Build networks, and every stage with its optimizer, of ``cfg``, composed for `pretrain`, on ``ranks`` processes.

    Raises UserError as `pretrain` would.
    """
    config: Any = OmegaConf.to_object(cfg)
    check_division(config, ranks)
    stage_plans(config, lambda _: 1)
    without_weights = OmegaConf.merge(cfg, {"model": {"weights": None}})
    assert isinstance(without_weights, DictConfig)
    with suppress(RuntimeError), torch.device("meta"):  # of a user's own network that needs memory
        build_method(config, without_weights, views_of(cfg))
        adversary = Adversary(config.adversary.loss)
        optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
