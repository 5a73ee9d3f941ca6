"""The network of a fine-tuning run: an encoder with the task's head, of random weights or those of ``init``."""

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn

from dira_scale.base.config.border import at
from dira_scale.base.config.keys import typed
from dira_scale.base.errors import UserError
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.freezing import freeze
from dira_scale.judge.tasks.task import Supervision
from dira_scale.train.blueprint import in_stage
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.control import on_main, raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim, parallel
from dira_scale.train.methods.build import SIZE, check_dimensions
from dira_scale.train.models import norm
from dira_scale.train.models.network import Network
from dira_scale.train.models.start import RANDOM, Start, start_weights
from dira_scale.train.runs.description import FILE, read_description
from dira_scale.train.schedule import batches_of
from dira_scale.train.task import taken_at_first

NOT_OF_WEIGHTS = ("weights", "bn_groups", "bn_group_size", "zero_init_residual")  # keys of networks with equal weights


@dataclass(frozen=True)
class Built:
    """A network, what was loaded into it (None: nothing), and, on the main process, which checkpoint of the run
    ``init`` that was, in words."""

    network: Network
    start: Start | None
    taken: str | None


def untrained(config: Finetune, supervision: Supervision, views: ViewSpec) -> Network:
    """Return the network with random weights, BatchNorm converted, frozen as configured. Raises UserError naming the
    key."""
    network = _of_task(config, supervision, views)
    norm.convert(network)
    freeze(network, config)
    return network


def _of_task(config: Finetune, supervision: Supervision, views: ViewSpec) -> Network:
    check_dimensions(config.model, views)
    with at("model", SIZE):
        return supervision.network(config.model, config.model.build_encoder(views.size, config.channels))


def build(config: Finetune, supervision: Supervision, views: ViewSpec, world: World) -> Built:
    """Return the network with the weights of ``init``, BatchNorm converted, frozen as configured. Collective.

    Raises UserError naming key and file, on all processes.
    """
    share = parallel.share(world, config.parallel, lambda: [untrained(config, supervision, views)])
    torch.manual_seed(config.seed)

    def started() -> tuple[Network, Start | None]:
        network = _of_task(config, supervision, views)
        try:
            decoder, other_norm = network if config.task.takes_decoder else None, "norm" in config.protocol.own
            start = start_weights(config.init, network.encoder, decoder, other_norm=other_norm, stage=config.init_stage)
        except UserError as error:
            if differing := _differing(config):
                raise UserError(f"init={config.init} is of another network: add {' '.join(differing)}") from error
            raise
        norm.convert(network)
        freeze(network, config, start.loaded if start else ())
        return network, start

    network, start = raise_on_all(lambda: parallel.built(started, share))
    check_stages(config, network)
    now = start.taken if start else None
    return Built(network, start, on_main(world, lambda: taken_at_first(config, now)))


def check_stages(config: Finetune, network: nn.Module) -> None:
    """Raise UserError for a stage that cannot be trained as configured, with its batch and the optimizer."""
    for name, batch in batches_of(config).items():
        try:
            with at("model"):
                norm.regroup(network, config.bn_groups(batch), config.parallel.accumulate)
        except UserError as error:
            raise in_stage(name, error) from error
        optimizer = optim.stage_optimizer(config.optim, network, batch)
        if config.parallel.strategy.startswith("zero"):
            parallel.refuse_layerwise(optimizer, network)


def _differing(config: Finetune) -> list[str]:
    """Return what to type for the network of the run ``init``; nothing if it is that of ``config``, or no run."""
    if config.init == RANDOM or not (Path(config.init) / FILE).is_file():
        return []
    architecture = read_description(Path(config.init)).network.architecture
    ours = {each.name: getattr(config.model, each.name) for each in fields(config.model)}
    return [
        f"model.{key}={typed(value)}"
        for key, value in architecture.items()
        if key not in (*NOT_OF_WEIGHTS, *config.protocol.own) and ours.get(key) != value
    ]  # fmt: skip
