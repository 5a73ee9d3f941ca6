"""The network that is fine-tuned, with its initial weights."""

import hashlib
from dataclasses import fields
from pathlib import Path

from torch import nn

from dira_scale.config.keys import typed
from dira_scale.data.views import ViewSpec
from dira_scale.engine.preflight import DIGITS
from dira_scale.errors import UserError
from dira_scale.finetune.config import Finetune
from dira_scale.methods.build import check_dimensions
from dira_scale.models import norm
from dira_scale.models.architecture import Architecture
from dira_scale.models.start import RANDOM, Start, start_weights
from dira_scale.runs.description import FILE, read_description
from dira_scale.tasks.supervision import Supervision

NOT_OF_WEIGHTS = ("weights", "bn_groups", "bn_group_size", "zero_init_residual")  # keys of networks with equal weights


def build_network(config: Finetune, supervision: Supervision, views: ViewSpec) -> tuple[nn.Module, Start | None]:
    """With the weights of ``init``, BatchNorm converted, and what was loaded; None if that is nothing.

    Raises UserError naming key and file.
    """
    check_dimensions(config.model, views)
    encoder = config.model.build_encoder(views.size, config.channels)
    network = supervision.network(config.model, encoder)
    try:
        start = start_weights(config.init, encoder, network if config.task.takes_decoder else None)
    except UserError as error:
        if differing := _differing(config):
            raise UserError(f"init={config.init} is of another network: add {' '.join(differing)}") from error
        raise
    return norm.convert(network), start


def _differing(config: Finetune) -> list[str]:
    """What to type for the network of the run ``init``; nothing if it is that of ``config``, or no run."""
    if config.init == RANDOM or not (Path(config.init) / FILE).is_file():
        return []
    theirs = read_description(Path(config.init)).network.architecture
    ours = {each.name: getattr(config.model, each.name) for each in fields(config.model)}
    return [
        f"model.{key}={typed(value)}"
        for key, value in theirs.items() if key not in NOT_OF_WEIGHTS and ours.get(key) != value
    ]  # fmt: skip


def random_network(
    model: Architecture, supervision: Supervision, size: int | tuple[int, ...], channels: int | None
) -> nn.Module:
    """Without weights of ``init``."""
    return norm.convert(supervision.network(model, model.build_encoder(size, channels)))


def weights_fact(init: str) -> dict[str, str]:
    """What the file ``init`` contains, which must be the same on all processes."""
    if not Path(init).is_file():
        return {}
    with Path(init).open("rb") as file:
        return {"the file init": hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]}
