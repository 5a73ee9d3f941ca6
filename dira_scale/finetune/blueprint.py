"""The blueprint of `finetune`, by its configuration alone."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from dira_scale.config.border import advised, at
from dira_scale.config.keys import typed
from dira_scale.data.distort import build
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.control import raise_on_all
from dira_scale.distributed.world import World
from dira_scale.engine import optim, parallel, preflight
from dira_scale.engine.run import Train
from dira_scale.engine.task import StagePlan, StepTask
from dira_scale.errors import DimensionsError, UserError
from dira_scale.evaluation.leak import Leak, Part, check_leak, own_source, sources_of
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.description import describe
from dira_scale.finetune.freezing import freeze
from dira_scale.finetune.held_out import check_crops, check_scored, held_out_views, judged_batches
from dira_scale.finetune.rates import choose_rate
from dira_scale.finetune.step import Finetuning
from dira_scale.finetune.task import FinetuneTask
from dira_scale.methods import views_of
from dira_scale.methods.build import SIZE, check_dimensions
from dira_scale.metrics.libraries import require_libraries
from dira_scale.models import norm
from dira_scale.models.hub import weights_fact
from dira_scale.models.network import Network
from dira_scale.models.start import RANDOM, Start, start_weights
from dira_scale.runs import checkpoint
from dira_scale.runs.description import FILE, Description, read_description
from dira_scale.runs.exit_codes import DONE
from dira_scale.runs.folder import recorded_config
from dira_scale.tasks.task import Supervision, without_data
from dira_scale.training.blueprint import Blueprint, MakeDistort, Networks, in_stage
from dira_scale.training.inputs import Inputs
from dira_scale.training.schedule import batches_of, groups_of, stage_plans
from dira_scale.training.shapes import ViewShapes
from dira_scale.training.task import taken_at_first

NOT_OF_WEIGHTS = ("weights", "bn_groups", "bn_group_size", "zero_init_residual")  # keys of networks with equal weights


def leak_of(config: Finetune, data: Inputs) -> Leak:
    """Return the check that the run in the folder has recorded, as its data cannot change; without one, compare now.

    Raises UserError as ``check_leak``.
    """
    folder = Path(config.run)
    checkpoints = checkpoint.locate_folder(folder, config.checkpoint.folder)
    with checkpoint.as_user_error(checkpoints):
        recorded = recorded_config(folder, checkpoints).get("leak")
    if recorded:
        return Leak(**recorded)
    splits = [split for split in (config.data.val_split, config.data.test_split) if split is not None]
    judged = [Part.of(dataset, split) for split in dict.fromkeys(splits) for dataset in data.datasets]
    sources = [own_source(data), *sources_of(config.init, "init", data.datasets)]
    return check_leak(judged, config.data.test_split, sources)


class FinetuneBlueprint(Blueprint):
    """A network, and what it learns."""

    command = "finetune"
    config: Finetune

    @cached_property
    def views(self) -> ViewSpec:
        return views_of(self.cfg)

    @cached_property
    def supervision(self) -> Supervision:
        return without_data(self.config.task)

    @property
    def shapes(self) -> ViewShapes:
        pooled, channels = self.supervision.pooled, self.config.channels or 1
        labels = len(self.supervision.outputs) if pooled else None
        return ViewShapes(self.views, channels, labels=labels, mask=not pooled)

    def networks(self) -> Networks:
        model = self.config.model
        with at("model", SIZE):
            network = self.supervision.network(model, model.build_encoder(self.views.size, self.config.channels))
        norm.convert(network)
        freeze(network, self.config)
        return (network,)

    @property
    def nodes(self) -> dict[str, Any]:
        plain: Any = OmegaConf.to_container(self.cfg)
        size = plain["data"]["size"]
        keys = "model", "task", "channels", "frozen", "trained", "lora"
        return {"size": size} | {key: plain[key] for key in keys}

    def refuse(self) -> None:
        require_libraries()
        check_dimensions(self.config.model, self.views)
        check_crops(self.config, self.views, self.supervision)

    def step(self, world: World, networks: Networks, distort: MakeDistort = build) -> Finetuning:
        (network,) = networks
        assert isinstance(network, Network), "made above"
        return Finetuning(self.config, world, network, self.supervision, self.views, distort)

    def remarks(self, networks: Networks) -> list[str]:
        return norm.spanning_lines(networks[0], groups_of(self.config))

    def try_stages(self, networks: Networks) -> None:
        for name, batch in batches_of(self.config).items():
            try:
                with at("model"):
                    norm.regroup(networks[0], self.config.bn_groups(batch), self.config.parallel.accumulate)
            except UserError as error:
                raise in_stage(name, error) from error
            optimizer = optim.stage_optimizer(self.config.optim, networks[0], batch)
            if self.config.parallel.strategy.startswith("zero"):
                parallel.refuse_layerwise(optimizer)

    def before(self, world: World, train: Train) -> int:
        return choose_rate(self, world, train) if self.config.optim.choose else DONE

    def task(self, world: World) -> FinetuneTask:
        config = self.config

        def opened() -> tuple[Inputs, list[StagePlan], Supervision]:
            require_libraries()
            views = self.views
            held_out = held_out_views(config, views)
            try:
                with at("task", {"names": config.task.names_key}):
                    data = Inputs.of(config, views, world, **config.task.input_arguments(), held_out_views=held_out)
            except DimensionsError as error:
                whole = "preset=volumes_small, or init= a run on volumes"
                raise UserError(f"{advised(error)}{f'; on volumes: {whole}' * (views.dimensions == 2)}") from error
            data.require_channels(config.model.name, config.channels or config.model.channels, config.init)
            supervision = config.task.supervision(data)
            check_crops(config, views, supervision)
            check_scored(config, data, supervision)
            if config.data.test_split is not None:
                judged_batches(config, data, "test_split")
            return data, stage_plans(config, data.steps_per_epoch), supervision

        data, stages, supervision = raise_on_all(opened)
        preflight.check_alike(self.cfg, data.facts() | weights_fact(config.init, "init"))
        leak = raise_on_all(lambda: leak_of(config, data) if world.main else None)
        torch.manual_seed(config.seed)
        network, start = raise_on_all(lambda: build_network(config, supervision, data.views))
        self.try_stages((network,))
        now = start.taken if start else None
        taken = raise_on_all(lambda: taken_at_first(config, now) if world.main else None)
        return FinetuneTask(config, world, network, supervision, stages, data, start, leak, taken)

    def described(self, config: Mapping[str, Any]) -> Description:
        return describe(config)

    def buffers(self, task: StepTask) -> Sequence[Tensor]:
        assert isinstance(task, Finetuning)
        return [*task.distort.buffers()]


def build_network(config: Finetune, supervision: Supervision, views: ViewSpec) -> tuple[Network, Start | None]:
    """Return the network with the weights of ``init``, BatchNorm converted, frozen as configured, and what was loaded;
    None: nothing.

    Raises UserError naming key and file.
    """
    check_dimensions(config.model, views)
    with at("model", SIZE):
        encoder = config.model.build_encoder(views.size, config.channels)
        network = supervision.network(config.model, encoder)
    try:
        decoder, other_norm = network if config.task.takes_decoder else None, "norm" in config.protocol.own
        start = start_weights(config.init, encoder, decoder, other_norm=other_norm, stage=config.init_stage)
    except UserError as error:
        if differing := _differing(config):
            raise UserError(f"init={config.init} is of another network: add {' '.join(differing)}") from error
        raise
    norm.convert(network)
    freeze(network, config, start.loaded if start else ())
    return network, start


def _differing(config: Finetune) -> list[str]:
    """Return what to type for the network of the run ``init``; nothing if it is that of ``config``, or no run."""
    if config.init == RANDOM or not (Path(config.init) / FILE).is_file():
        return []
    theirs = read_description(Path(config.init)).network.architecture
    ours = {each.name: getattr(config.model, each.name) for each in fields(config.model)}
    return [
        f"model.{key}={typed(value)}"
        for key, value in theirs.items()
        if key not in (*NOT_OF_WEIGHTS, *config.protocol.own) and ours.get(key) != value
    ]  # fmt: skip
