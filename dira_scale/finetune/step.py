"""A step of fine-tuning: the losses of a network's outputs for one view of each image."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dira_scale.finetune.config import Finetune
from dira_scale.judge.tasks.task import Supervision, identity
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort import Distort, DistortVolumes, build
from dira_scale.train.data.views import Views, ViewSpec
from dira_scale.train.distributed.collectives import reduce_sum
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.profiler import VIEWS, span
from dira_scale.train.engine.task import Losses, SideModule, StagePlan
from dira_scale.train.models import norm
from dira_scale.train.models.network import Network
from dira_scale.train.models.normalise import input_of, normalised


@dataclass(kw_only=True)
class FinetuneLosses(Losses):
    """With what the scores of a validation are computed from."""

    logits: Tensor
    targets: Tensor


class Finetuning:
    """A network's step on what is supervised (see :class:`dira_scale.train.engine.task.StepTask`).

    Args:
        network: unsharded, on the CPU, its BatchNorm converted, and what is ``frozen`` is.
        views: of training; one of each image.
        distort: makes the module that distorts the views.
    """

    monitor_every = 1

    def __init__(
        self,
        config: Finetune,
        world: World,
        network: Network,
        supervision: Supervision,
        views: ViewSpec,
        distort: Callable[[Views], Distort | DistortVolumes] = build,
    ) -> None:
        self.config, self.world, self.module, self.optim = config, world, network, config.optim
        self.supervision, self.side_modules = supervision, list[SideModule]()
        self.input, self.distort = input_of(views.sides, config.normalise), distort(views)
        self.distort.to(world.device)

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        norm.regroup(module, self.config.bn_groups(stage.batch), self.config.parallel.accumulate)
        return module

    def losses(self, stage: StagePlan, model: nn.Module, micro: Batch) -> FinetuneLosses:
        """In training of the distorted view, over all processes; in evaluation of the first view as it is."""
        image, targets = self.seen(micro) if model.training else (micro.views[0], self.supervision.targets(micro))
        with self.world.autocast():
            logits = model(normalised(image, self.input))
        terms = self.supervision.terms(logits, targets, reduce_sum if model.training else identity)
        terms = {name: terms[name] for name in stage.terms}
        total = torch.stack([*terms.values()]).sum()
        return FinetuneLosses(total, terms, logits=logits.detach(), targets=targets)

    def seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The distorted images, and their targets, turned as they are."""
        parameters = batch.distortions[0]
        with span(VIEWS):
            image = self.distort(batch.views[0], parameters, lacking=batch.lacking(0))
            return image, self.supervision.targets(batch, lambda mask: self.distort.turned_mask(mask, parameters))

    def monitor(self, losses: FinetuneLosses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        return {}

    def after_step(self, module: nn.Module) -> None:
        pass
