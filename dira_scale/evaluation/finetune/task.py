"""Fine-tuning as a task of the engine: a network on labels or masks, then its best checkpoint on the test split."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.distort import Distort, DistortVolumes, build
from dira_scale.data.geometry.fixed import centre, ten_crops
from dira_scale.data.views import ViewSpec, fixed_views
from dira_scale.distributed.collectives import reduce_sum
from dira_scale.distributed.control import raise_on_all
from dira_scale.distributed.world import World
from dira_scale.engine import optim, parallel, preflight
from dira_scale.engine.task import Best, Losses, SideModule, StagePlan, StagePosition
from dira_scale.errors import UserError
from dira_scale.evaluation.finetune.config import CENTRE, Finetune
from dira_scale.evaluation.finetune.description import TENSORS, UNIT, describe
from dira_scale.evaluation.finetune.network import build_network, weights_fact
from dira_scale.evaluation.finetune.supervision import Supervision, single
from dira_scale.methods import views_of
from dira_scale.metrics.libraries import require_libraries
from dira_scale.models import norm
from dira_scale.models.start import RANDOM, Start
from dira_scale.runs.description import Description
from dira_scale.runs.folder import RunFolder
from dira_scale.training.schedule import batches_of, few_steps, process_counts, stage_plans
from dira_scale.training.validation import LOWEST_LOSS, HeldOutValidation

if TYPE_CHECKING:
    from dira_scale.training.inputs import Inputs


@dataclass(kw_only=True)
class FinetuneLosses(Losses):
    """With what the scores of a validation are computed from."""

    logits: Tensor
    targets: Tensor


class Finetuning:
    """A network's step on what is supervised (see :class:`dira_scale.engine.task.StepTask`).

    Args:
        network: unsharded, on the CPU, its BatchNorm converted.
        views: of training; one of each image.
        distort: makes the module that distorts the views.
    """

    monitor_every = 1

    def __init__(
        self,
        config: Finetune,
        world: World,
        network: nn.Module,
        supervision: Supervision,
        views: ViewSpec,
        distort: Callable[[ViewSpec], Distort | DistortVolumes] = build,
    ) -> None:
        self.config, self.world, self.module, self.optim = config, world, network, config.optim
        self.supervision, self.side_modules = supervision, list[SideModule]()
        self.distort = distort(views)
        self.distort.to(world.device)

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        norm.regroup(module, self.config.bn_groups(stage.batch), self.config.parallel.accumulate)
        return module

    def losses(self, stage: StagePlan, model: nn.Module, micro: Batch) -> FinetuneLosses:
        """In training of the distorted view, over all processes; in evaluation of the first view as it is."""
        image, targets = self.seen(micro) if model.training else (micro.views[0], self.supervision.targets(micro))
        with self.world.autocast():
            logits = model(image)
        terms = self.supervision.terms(logits, targets, reduce_sum if model.training else single)
        terms = {name: terms[name] for name in stage.terms}
        total = torch.stack([*terms.values()]).sum()
        return FinetuneLosses(total, terms, logits=logits.detach(), targets=targets)

    def seen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The distorted images, and their targets, turned as they are."""
        parameters = batch.distortions[0]
        image = self.distort(batch.views[0], parameters)
        return image, self.supervision.targets(batch, lambda mask: self.distort.turned_mask(mask, parameters))

    def monitor(self, losses: FinetuneLosses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        return {}

    def after_step(self, module: nn.Module) -> None:
        pass


class FinetuneTask(Finetuning):
    """A network, built and checked, on its data (see :class:`dira_scale.engine.task.Task`).

    Args:
        start: what was loaded into the network.
    """

    def __init__(
        self,
        config: Finetune,
        world: World,
        network: nn.Module,
        supervision: Supervision,
        stages: Sequence[StagePlan],
        data: "Inputs",
        start: Start | None = None,
    ) -> None:
        super().__init__(config, world, network, supervision, data.views)
        self.start = start
        self.stages, self.data, self.unit, self.tensors = stages, data, UNIT, TENSORS[supervision.pooled]
        validate = config.validate
        held_out = data.held_out(validate.batch, validate.batches, world.rank, world.ranks)
        self.validation: HeldOutValidation | None = None
        if held_out is not None:
            best = LOWEST_LOSS if validate.best == LOWEST_LOSS.metric else supervision.best
            self.validation = HeldOutValidation(
                validate.every, held_out, self.losses, world.device, [supervision.score], Best(*best)
            )

    @classmethod
    def build(cls, config: Finetune, cfg: DictConfig, world: World) -> "FinetuneTask":
        """Open the data, build the network, check the stage. Collective.

        Raises:
            UserError: on all processes; names the wrong key, dataset or process.
        """
        from dira_scale.training.inputs import Inputs

        def opened() -> tuple[Inputs, list[StagePlan], Supervision]:
            require_libraries()
            views = views_of(cfg)
            if views.count != 1:
                raise UserError(f"views.count={views.count}: fine-tuning has one view of each image; use views.count=1")
            data = Inputs.of(config, views, world, **config.task.asked(), held_out_views=held_out_views(config, views))
            supervision = config.task.supervision(data)
            if config.data.test_split is not None:
                test_batches(config, data, supervision)
            return data, stage_plans(config, data.steps_per_epoch), supervision

        data, stages, supervision = raise_on_all(opened)
        preflight.check_alike(cfg, data.facts() | weights_fact(config.init))
        torch.manual_seed(config.seed)
        network, start = raise_on_all(lambda: build_network(config, supervision, data.views))
        try_stages(config, network)
        return cls(config, world, network, supervision, stages, data, start)

    def describe(self, config: dict[str, Any]) -> Description:
        described = describe(config)
        datasets = zip(described.data.datasets, self.data.datasets, strict=True)
        data = replace(described.data, datasets=tuple(each.known(opened.info) for each, opened in datasets))
        licence = self.start.licence if self.start else None
        return replace(described, data=data, network=replace(described.network, licence=licence))

    def identity(self) -> dict[str, Any]:
        return {"outputs": list(self.supervision.outputs)}

    def summary(self, module: nn.Module) -> list[str]:
        parameters = sum(p.numel() for p in module.parameters()) / 1e6
        stages = ", ".join(f"{plan.name} {plan.steps}" for plan in self.stages)
        return [
            *self.data.summary(self.stages[0]),
            self.start.summary if self.start else f"init={RANDOM}: nothing is loaded",
            f"network: {parameters:.1f} M parameters; outputs: {', '.join(self.supervision.outputs)}; steps by stage: "
            f"{stages}",
            *few_steps(self.config, self.stages),
        ]

    def process_counts(self) -> list[int]:
        return process_counts(self.config)

    def set_progress(self, module: nn.Module, share: float) -> None:
        pass

    def finish(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> None:
        """Evaluate the stage's best checkpoint on the test split, once. Collective."""
        from dira_scale.evaluation.finetune.results import write_results

        if self.config.data.test_split is not None:
            write_results(self, stage, run)

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        return []


def held_out_views(config: Finetune, views: ViewSpec, crops: str = CENTRE) -> ViewSpec:
    """Crops of a share of each image, or, where training's have a size in voxels, of the view's size."""
    extent = None if views.crop.least is None else views.sides
    chosen = centre if crops == CENTRE else ten_crops
    return fixed_views(views.size, chosen(views.dimensions, config.evaluate.share, extent))


def test_batches(config: Finetune, data: "Inputs", supervision: Supervision, rank: int = 0, ranks: int = 1) -> Any:
    """This rank's share of the test split. Raises UserError if there is none."""
    if config.evaluate.crops != CENTRE and not supervision.pooled:
        raise UserError(f"evaluate.crops={config.evaluate.crops}: masks are judged on one crop; use {CENTRE}")
    views, split = held_out_views(config, data.views, config.evaluate.crops), config.data.test_split
    assert split is not None
    batch = max(1, config.validate.batch // views.count)
    return data.evaluation("data.test_split", split, views, batch, None, rank, ranks)


def try_stages(config: Finetune, network: nn.Module) -> None:
    """Raise UserError for a stage that cannot be trained as configured, with its batch and the optimizer."""
    for name, batch in batches_of(config).items():
        try:
            norm.regroup(network, config.bn_groups(batch), config.parallel.accumulate)
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error
        optimizer = optim.stage_optimizer(config.optim, network, batch)
        if config.parallel.strategy.startswith("zero"):
            parallel.refuse_layerwise(optimizer)
