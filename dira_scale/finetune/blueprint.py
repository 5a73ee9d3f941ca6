"""The blueprint of `finetune`, by its configuration alone, and the data of a run, opened and checked."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from dira_scale.base.config.border import advised, at
from dira_scale.base.errors import DimensionsError, UserError
from dira_scale.dataset.metrics.libraries import require_libraries
from dira_scale.finetune import network
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.description import describe
from dira_scale.finetune.judging import check_evaluation, check_scored, held_out_views, judged_batches
from dira_scale.finetune.rates import choose_rate
from dira_scale.finetune.task import FinetuneTask, Finetuning
from dira_scale.judge.evaluation.leak import Leak, Part, check_leak, own_source, sources_of
from dira_scale.judge.tasks.task import Supervision, without_data
from dira_scale.train.blueprint import Blueprint, MakeDistort, Networks
from dira_scale.train.data.distort import build
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.control import on_main, raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import preflight
from dira_scale.train.engine.run import Train
from dira_scale.train.engine.task import StagePlan, StepTask
from dira_scale.train.inputs import Inputs
from dira_scale.train.methods import views_of
from dira_scale.train.models import norm
from dira_scale.train.models.hub import weights_fact
from dira_scale.train.models.network import Network
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.folder import recorded_in
from dira_scale.train.schedule import groups_of, stage_plans
from dira_scale.train.shapes import ViewShapes


class FinetuneBlueprint(Blueprint):
    """A network, and what it learns."""

    command = "finetune"
    config: Finetune

    def task(self, world: World) -> FinetuneTask:
        data, supervision, stages = raise_on_all(lambda: open_data(self.config, self.views, world))
        preflight.check_alike(self.cfg, data.facts() | weights_fact(self.config.init, "init"))
        leak = on_main(world, lambda: leak_of(self.config, data))
        built = network.build(self.config, supervision, data.views, world)
        return FinetuneTask(self.config, world, built, data, supervision, stages, leak)

    def before(self, world: World, train: Train) -> int:
        return choose_rate(self, world, train)

    @cached_property
    def views(self) -> ViewSpec:
        return views_of(self.cfg)

    @cached_property
    def supervision(self) -> Supervision:
        """The keys alone decide this one, which checks and plans use; :meth:`task` makes another from the data."""
        return without_data(self.config.task)

    @property
    def shapes(self) -> ViewShapes:
        pooled, channels = self.supervision.pooled, self.config.channels or 1
        labels = len(self.supervision.outputs) if pooled else None
        return ViewShapes(self.views, channels, labels=labels, mask=not pooled)

    def networks(self) -> tuple[Network]:
        return (network.untrained(self.config, self.supervision, self.views),)

    @property
    def nodes(self) -> dict[str, Any]:
        plain: Any = OmegaConf.to_container(self.cfg)
        size = plain["data"]["size"]
        keys = "model", "task", "channels", "frozen", "trained", "lora"
        return {"size": size} | {key: plain[key] for key in keys}

    def refuse(self) -> None:
        check_evaluation(self.config, self.views, self.supervision)

    def step(self, world: World, networks: Networks, distort: MakeDistort = build) -> Finetuning:
        (built,) = networks
        assert isinstance(built, Network), "made above"
        return Finetuning(self.config, world, built, self.supervision, self.views, distort)

    def remarks(self, networks: Networks) -> list[str]:
        return norm.spanning_lines(networks[0], groups_of(self.config))

    def try_stages(self, networks: Networks) -> None:
        network.check_stages(self.config, networks[0])

    def described(self, config: Mapping[str, Any]) -> Description:
        return describe(config)

    def buffers(self, task: StepTask) -> Sequence[Tensor]:
        assert isinstance(task, Finetuning)
        return [*task.distort.buffers()]


def open_data(config: Finetune, views: ViewSpec, world: World) -> tuple[Inputs, Supervision, list[StagePlan]]:
    """Open the datasets, and look whether the task can be learned and judged on them, before anything is built.

    Raises UserError, on one process alone: call it within ``raise_on_all``.
    """
    require_libraries()
    held_out = held_out_views(config, views)
    try:
        with at("task", {"names": config.task.names_key}):
            data = Inputs.of(config, views, world, **config.task.input_arguments(), held_out_views=held_out)
    except DimensionsError as error:
        whole = "preset=volumes_small, or init= a run on volumes"
        raise UserError(f"{advised(error)}{f'; on volumes: {whole}' * (views.dimensions == 2)}") from error
    data.require_channels(config.model.name, config.channels or config.model.channels, config.init)
    supervision = config.task.supervision(data)
    check_evaluation(config, views, supervision)
    check_scored(config, data, supervision)
    if config.data.test_split is not None:
        judged_batches(config, data, "test_split")
    return data, supervision, stage_plans(config, data.steps_per_epoch)


def leak_of(config: Finetune, data: Inputs) -> Leak:
    """Return the check that the run in the folder has recorded, as its data cannot change; without one, compare now.

    Raises UserError as ``check_leak``. Call it within ``on_main``.
    """
    if recorded := recorded_in(Path(config.run), config.checkpoint.folder).get("leak"):
        return Leak(**recorded)
    splits = [split for split in (config.data.val_split, config.data.test_split) if split is not None]
    judged = [Part.of(dataset, split) for split in dict.fromkeys(splits) for dataset in data.datasets]
    sources = [own_source(data), *sources_of(config.init, "init", data.datasets)]
    return check_leak(judged, config.data.test_split, sources)
