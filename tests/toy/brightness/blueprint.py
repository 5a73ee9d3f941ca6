"""What `brightness` trains, by its configuration alone."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from dira_scale.brightness.config import Brightness
from omegaconf import OmegaConf
from torch import Tensor, nn

from dira_scale.train.blueprint import Blueprint, MakeDistort, Networks
from dira_scale.train.data.batch import UNITS, Batch
from dira_scale.train.data.distort import build
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.description import data_of, stages_of
from dira_scale.train.distributed.control import raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import optim, preflight
from dira_scale.train.engine.task import Losses, SideModule, StagePlan
from dira_scale.train.inputs import Inputs
from dira_scale.train.methods import views_of
from dira_scale.train.models import norm
from dira_scale.train.models.architecture import architecture
from dira_scale.train.runs.description import (
    Description,
    InputDescription,
    Metric,
    NetworkDescription,
    Output,
    Tensors,
    Term,
)
from dira_scale.train.runs.identity import execution
from dira_scale.train.schedule import batches_of, stage_plans
from dira_scale.train.shapes import ViewShapes
from dira_scale.train.task import DatasetTask

TENSORS = Tensors("network", "optim.network", "network.encoder", None, "network.head")


class BrightnessStep:
    """The squared error of the answer for a distorted view (see :class:`dira_scale.train.engine.task.StepTask`)."""

    monitor_every = 1

    def __init__(self, config: Brightness, world: World, network: nn.Module, views: ViewSpec, distort: MakeDistort):
        self.config, self.world, self.module, self.optim = config, world, network, config.optim
        self.side_modules = list[SideModule]()
        self.distort = distort(views).to(world.device)

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        norm.regroup(module, self.config.bn_groups(stage.batch), self.config.parallel.accumulate)
        return module

    def losses(self, stage: StagePlan, model: nn.Module, micro: Batch) -> Losses:
        with self.world.autocast():
            answer = model(self.distort(micro.views[0], micro.distortions[0]))
        error = (answer.float().flatten() - micro.views[0].mean((1, 2, 3))).square().mean()
        return Losses(error, {"error": error})

    def monitor(self, losses: Losses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        return {}

    def after_step(self, module: nn.Module) -> None:
        pass


class BrightnessTask(BrightnessStep, DatasetTask):
    validation = None

    def __init__(self, blueprint: "BrightnessBlueprint", world: World, network: nn.Module, data: Inputs):
        super().__init__(blueprint.config, world, network, data.views, build)
        self.stages, self.data, self.tensors = stage_plans(blueprint.config, data.steps_per_epoch), data, TENSORS
        self.unit, self.described = UNITS[data.views.dimensions], blueprint.described  # type: ignore[method-assign]

    def summary(self, module: nn.Module) -> list[str]:
        return self.data.summary(self.stages[0])


class BrightnessBlueprint(Blueprint):
    command = "brightness"
    config: Brightness

    @cached_property
    def views(self) -> ViewSpec:
        return views_of(self.cfg)

    @property
    def shapes(self) -> ViewShapes:
        return ViewShapes(self.views)

    @property
    def nodes(self) -> dict[str, Any]:
        plain: Any = OmegaConf.to_container(self.cfg)
        return {"model": plain["model"], "size": plain["data"]["size"]}

    def networks(self) -> Networks:
        model = self.config.model
        return (norm.convert(model.build_classifier(model.build_encoder(self.views.size), 1)),)

    def step(self, world: World, networks: Networks, distort: MakeDistort = build) -> BrightnessStep:
        return BrightnessStep(self.config, world, networks[0], self.views, distort)

    def try_stages(self, networks: Networks) -> None:
        for batch in batches_of(self.config).values():
            norm.regroup(networks[0], self.config.bn_groups(batch), self.config.parallel.accumulate)
            optim.stage_optimizer(self.config.optim, networks[0], batch)

    def task(self, world: World) -> BrightnessTask:
        data = raise_on_all(lambda: Inputs.of(self.config, self.views, world))
        preflight.check_alike(self.cfg, data.facts())
        torch.manual_seed(self.config.seed)
        networks = raise_on_all(self.networks)
        self.try_stages(networks)
        return BrightnessTask(self, world, networks[0], data)

    def described(self, config: Mapping[str, Any]) -> Description:
        model = architecture(config["model"])
        size = config["data"]["size"]
        return Description(
            command=self.command, title="Brightness run", trained="trained on how bright images are",
            network=NetworkDescription(config["model"], model.name, model.dimensions, model.channels, head="pooled"),
            input=InputDescription(model.dimensions * (size,)), data=data_of(config),
            stages=stages_of(config, lambda _: False),
            terms={"error": Term("Squared error")}, metrics={"loss": Metric("Squared error", "min")}, best="loss",
            output=Output(None, 1.0, "", names=("brightness",)), tensors=TENSORS, execution=execution(self.command),
            unit=UNITS[model.dimensions],
        )  # fmt: skip

    def buffers(self, task: Any) -> list[Tensor]:
        return [*task.distort.buffers()]
