"""Fine-tuning as a task of the engine: a network on what a task learns, then its best checkpoint on the test split."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dira_scale.finetune import judging, remarks
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.description import TENSORS, chosen_rate, describe
from dira_scale.finetune.network import Built
from dira_scale.finetune.rates import forget_candidates
from dira_scale.judge.evaluation.config import BY_VOLUMES
from dira_scale.judge.evaluation.leak import NO_LEAK, Leak
from dira_scale.judge.tasks.task import Supervision, identity
from dira_scale.train.data.batch import UNITS, Batch
from dira_scale.train.data.distort import Distort, DistortVolumes, build
from dira_scale.train.data.views import Views, ViewSpec
from dira_scale.train.distributed.collectives import reduce_sum
from dira_scale.train.distributed.control import raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.profiler import VIEWS, span
from dira_scale.train.engine.task import Detail, Losses, SideModule, StagePlan, StagePosition
from dira_scale.train.engine.watchdog import alive
from dira_scale.train.inputs import Inputs
from dira_scale.train.models import norm
from dira_scale.train.models.network import Network
from dira_scale.train.models.normalise import input_of, normalised
from dira_scale.train.runs.description import Description
from dira_scale.train.runs.folder import RunFolder
from dira_scale.train.schedule import few_steps, groups_of
from dira_scale.train.task import DatasetTask
from dira_scale.train.validation import LOWEST_LOSS, HeldOutValidation


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


class FinetuneTask(Finetuning, DatasetTask):
    """A network, built and checked, on its data (see :class:`dira_scale.train.engine.task.Task`).

    Args:
        leak: whether patients that are evaluated on were trained on; on the main process.
    """

    judged = True  # on the held-out splits, at its end

    def __init__(
        self,
        config: Finetune,
        world: World,
        built: Built,
        data: Inputs,
        supervision: Supervision,
        stages: list[StagePlan],
        leak: Leak | None = None,
    ) -> None:
        super().__init__(config, world, built.network, supervision, data.views)
        self.start, self.leak, self.taken = built.start, leak, built.taken
        self.stages, self.data, self.tensors = stages, data, TENSORS[supervision.pooled]
        self.normalises = norm.takes_statistics(built.network)
        self.unit = UNITS[data.views.dimensions]
        validate = config.validate
        held_out = data.held_out(validate.batch, validate.batches, world.rank, world.ranks)
        self.validation: HeldOutValidation | None = None
        self.volumes = judging.whole_volumes(config, data, supervision, world)
        best = BY_VOLUMES if self.volumes else supervision.best
        best = LOWEST_LOSS if validate.best == LOWEST_LOSS.metric else best
        self.best = best.compared
        if held_out is not None:
            self.validation = HeldOutValidation(
                validate.every, held_out, self.losses, world.device, [supervision.score], best, self.of_volumes
            )

    def of_volumes(self, module: nn.Module) -> dict[str, float]:
        """Figures of whole volumes, if validation sees any. Collective."""

        def predicted(images: Tensor) -> Tensor:
            alive()
            with self.world.autocast():
                return self.supervision.predicted(module(normalised(images, self.input)))

        return self.volumes.figures(predicted, self.world.device) if self.volumes else {}

    def described(self, config: Mapping[str, Any]) -> Description:
        run = describe(config)
        licence = self.start.licence if self.start else None
        learned = (remarks.learned_share(self.module),) if self.config.frozen else ()
        return replace(run, network=replace(run.network, licence=licence), training=(*run.training, *learned))

    def identity(self) -> dict[str, Any]:
        return (
            super().identity() | {"facts": self.supervision.facts} | ({"leak": asdict(self.leak)} if self.leak else {})
        )

    def summary(self, module: nn.Module) -> list[str]:
        parameters = sum(p.numel() for p in module.parameters()) / 1e6
        stages = ", ".join(f"{plan.name} {plan.steps}" for plan in self.stages)
        leak, estimated = self.leak or Leak(NO_LEAK, []), list[Detail]()
        if passes := self.norm_passes(self.stages[0]):
            over = f"statistics over {passes} training batches before each validation (validate.norm_passes)"
            estimated = [Detail(f"BatchNorm: {over}")]
        return [
            f"learns {', '.join(self.supervision.outputs)}: a network of {parameters:.1f} M parameters; steps by "
            f"stage: {stages}",
            *self.data.summary(self.stages[0]),
            *([self.start.short, Detail(self.start.summary)] if self.start else ["starts from random weights"]),
            *([self.taken] if self.taken else []),
            *(Detail(line) if leak.verdict == NO_LEAK else line for line in leak.lines),
            *remarks.frozen_lines(self.config, self.module),
            *remarks.without_figure(self.config, self.data, self.supervision),
            *remarks.told_apart_by_side(self.supervision.outputs, self.data.views),
            *self._compared_by(),
            *map(Detail, norm.spanning_lines(module, groups_of(self.config))),
            *few_steps(self.config, self.stages, nearly=1.0),
            *chosen_rate(asdict(self.config.optim), self.config.data.val_split, self.best),
            *estimated,
        ]

    def _compared_by(self) -> list[str]:
        if self.volumes:
            return [f"{self.volumes} (validate.every={self.config.validate.every})"]
        if not (self.data.masks and self.data.views.dimensions == 3 and self.validation):
            return []
        return [
            "checkpoints are compared by the middle of each volume, where a class that is neither there nor found "
            "counts as found: validate.volumes=10 sees whole volumes"
        ]

    @torch.no_grad()
    def before_validation(self, stage: StagePlan, module: nn.Module) -> None:
        """Make BatchNorm's statistics the mean over the stage's first batches, without labels and weights as they are.

        By forward passes in training mode: torch's momentum=None. Collective.
        """
        if not (passes := self.norm_passes(stage)):
            return
        with closing(self.data.loader(stage).iterate(0, passes)) as batches:
            for stored in batches:
                alive()
                batch = stored.to(self.world.device)
                with self.world.autocast():
                    image = self.distort(batch.views[0], batch.distortions[0], lacking=batch.lacking(0))
                    module(normalised(image, self.input))
        norm.commit_statistics(module, momentum=1.0)

    def norm_passes(self, stage: StagePlan) -> int:
        """Return over how many batches BatchNorm's statistics are averaged; 0 where none of it learns."""
        return self.config.validate.passes(stage.steps) if self.normalises else 0

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        """Say at the last step whether the training loss is still falling. On the main process."""
        if position.done < position.steps or not self.world.main:
            return []
        best = None if self.validation is None else self.validation.best
        return remarks.ended_early(self.config, row, self.unit, position.steps, best)

    def finish(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> list[str]:
        """Evaluate the stage's best checkpoint on the held-out splits, once. Collective."""
        said = [] if run is None else remarks.settled(self.config, self.unit)
        if not self.judged or (self.config.data.test_split is None and self.config.data.val_split is None):
            return said
        passes = self.norm_passes(stage)
        judging.write_results(self.config, self.world, self.supervision, self.data, stage, run, self.leak, passes)
        raise_on_all(lambda: forget_candidates(self.config) if run is not None else None)
        return said if run is None else [*said, judging.summary(run.folder, self.supervision.best.metric)]
