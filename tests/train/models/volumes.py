"""The networks of volumes, as their configurations build them."""

from functools import cache
from typing import Any

import torch

from dira_scale.base.config.compose import compose
from dira_scale.train.models.architecture import Architecture, architecture
from dira_scale.train.models.network import Network


@cache
def chosen(model: str, **keys: Any) -> Architecture:
    """``model=…`` with other ``model.*``."""
    words = [f"model.{key}={'null' if value is None else value}" for key, value in keys.items()]
    return architecture(compose("pretrain", ["data.shards=any", f"model={model}", *words]).model)


def network(model: str, size: tuple[int, ...], classes: int = 1, channels: int | None = None, **keys: Any) -> Network:
    """With the same random weights at each call."""
    torch.manual_seed(0)
    architecture = chosen(model, **keys)
    return architecture.build_network(architecture.build_encoder(size, channels), classes)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
