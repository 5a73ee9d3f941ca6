"""The blueprint of `finetune`, by its configuration alone."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from dira_scale.finetune import network, opening
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.description import describe
from dira_scale.finetune.held_out import check_evaluation
from dira_scale.finetune.rates import choose_rate
from dira_scale.finetune.step import Finetuning
from dira_scale.finetune.task import FinetuneTask
from dira_scale.judge.tasks.task import Supervision, without_data
from dira_scale.train.blueprint import Blueprint, MakeDistort, Networks
from dira_scale.train.data.distort import build
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.world import World
from dira_scale.train.engine import preflight
from dira_scale.train.engine.run import Train
from dira_scale.train.engine.task import StepTask
from dira_scale.train.methods import views_of
from dira_scale.train.models.network import Network
from dira_scale.train.runs.description import Description
from dira_scale.train.shapes import ViewShapes


class FinetuneBlueprint(Blueprint):
    """A network, and what it learns."""

    command = "finetune"
    config: Finetune

    def task(self, world: World) -> FinetuneTask:
        opened = opening.open_data(self.config, self.views, world)
        preflight.check_alike(self.cfg, opened.facts(self.config))
        leak = opening.leak_of(self.config, opened.data, world)
        built = network.build(self.config, opened.supervision, opened.data.views, world)
        return FinetuneTask(self.config, world, built, opened, leak)

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
        return network.remarks(self.config, networks[0])

    def try_stages(self, networks: Networks) -> None:
        network.check_stages(self.config, networks[0])

    def described(self, config: Mapping[str, Any]) -> Description:
        return describe(config)

    def buffers(self, task: StepTask) -> Sequence[Tensor]:
        assert isinstance(task, Finetuning)
        return [*task.distort.buffers()]
