"""Pretraining as a task of the engine: a method trained through its stages, with the adversary beside it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale import methods
from dira_scale.data.batch import UNITS, Batch
from dira_scale.data.distort import Distort, DistortVolumes, build
from dira_scale.data.views import ViewSpec
from dira_scale.distributed.control import raise_on_all
from dira_scale.distributed.world import World
from dira_scale.engine import optim, parallel, preflight
from dira_scale.engine.task import StagePlan, StagePosition
from dira_scale.errors import UserError
from dira_scale.methods.adversary import Adversary, adversary_of
from dira_scale.methods.method import Method
from dira_scale.models import norm
from dira_scale.models.discriminator import check_size
from dira_scale.models.network import moved
from dira_scale.pretrain.config import Pretrain
from dira_scale.pretrain.description import describe, tensors_of
from dira_scale.pretrain.diagnosis import Diagnosis
from dira_scale.pretrain.monitors import Monitors
from dira_scale.pretrain.neighbours import NeighbourAUC
from dira_scale.pretrain.objective import Forward, Objective, PretrainLosses, restores
from dira_scale.runs.description import Description
from dira_scale.runs.folder import RunFolder
from dira_scale.training.schedule import batches_of, few_steps, process_counts, stage_plans
from dira_scale.training.validation import HeldOutValidation

if TYPE_CHECKING:
    from dira_scale.training.inputs import Inputs

ADVICE = "shard one of the channels, or, of a series in time, one of its images"  # for images of several


@dataclass(frozen=True)
class DiscriminatorTraining:
    """The adversary: it learns to distinguish clean from restored patches, after each step of the generator."""

    module: Adversary
    optimizer: Optimizer
    name: str = "discriminator"

    def loss(self, carried: tuple[Tensor, ...] | None) -> Tensor | None:
        return None if carried is None else self.module.discriminator_loss(*carried)


class Pretraining:
    """A method's step with the adversary beside it (see :class:`dira_scale.engine.task.StepTask`).

    Args:
        method: unsharded, on the CPU.
        adversary: on the device.
        distort: makes the module that distorts the views.
    """

    def __init__(
        self,
        config: Pretrain,
        world: World,
        method: Method,
        adversary: Adversary,
        distort: Callable[[ViewSpec], Distort | DistortVolumes] = build,
    ) -> None:
        self.config, self.module, self.optim = config, method, config.optim
        judge = optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
        self.side_modules = [DiscriminatorTraining(adversary, judge)]
        self.objective = Objective(method.weights, adversary, method.views, world, distort, method.corrupted)
        self.monitors = Monitors(method.weights, adversary, config.parallel.accumulate)
        self.monitor_every = config.health.every

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        assert isinstance(module, Method)
        for part in (module, self.side_modules[0].module):
            norm.regroup(part, self.config.bn_groups(stage.batch), self.config.parallel.accumulate)
        module.enter_stage(stage.terms)
        return Forward(module)

    def losses(self, stage: StagePlan, model: nn.Module, micro: Batch) -> PretrainLosses:
        return self.objective(model, micro, stage.terms)

    def monitor(self, losses: PretrainLosses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        return self.monitors.measure(losses, scale, differentiable)

    def after_step(self, module: nn.Module) -> None:
        assert isinstance(module, Method)
        module.after_step()


class PretrainTask(Pretraining):
    """A method, built and checked, on its data (see :class:`dira_scale.engine.task.Task`).

    Args:
        stages: the stages to train.
    """

    def __init__(
        self,
        config: Pretrain,
        world: World,
        method: Method,
        adversary: Adversary,
        stages: list[StagePlan],
        data: "Inputs",
    ) -> None:
        super().__init__(config, world, method, adversary)
        self.stages, self.data, self.diagnosis = stages, data, Diagnosis(config)
        decoder = any(restores(plan.terms) for plan in stages)
        self.tensors, self.unit = tensors_of(config.method, decoder, method.state_dict()), UNITS[data.views.dimensions]
        validate = config.validate
        held_out = data.held_out(validate.batch, validate.batches, world.rank, world.ranks)
        self.validation: HeldOutValidation | None = None
        if held_out is not None:
            scores = [partial(NeighbourAUC, validate.batch)]
            self.validation = HeldOutValidation(validate.every, held_out, self.losses, world.device, scores)

    @classmethod
    def build(cls, config: Pretrain, cfg: DictConfig, world: World) -> "PretrainTask":
        """Open the data, build the method, check every stage. Collective.

        Raises:
            UserError: on all processes; names the wrong key, dataset or process.
        """

        # Here, as a step is benchmarked and rehearsed where no shards are, hence no pyarrow.
        from dira_scale.data.manifest.schema import DimensionsError
        from dira_scale.runs.reader import start_tensors
        from dira_scale.training.inputs import Inputs

        def opened() -> tuple[Inputs, list[StagePlan], dict[str, Tensor] | None]:
            views, learned = methods.views_of(cfg), methods.learned_label(cfg.method)
            try:
                data = Inputs.of(config, views, world, labels=learned.choice if learned else None)
            except DimensionsError as error:
                other = methods.experiments_on(5 - views.dimensions, config.method)
                raise UserError(f"{error}{other}") from error
            if learned:
                learned.check(data.labels)
            data.require_channels(config.model.name, config.model.channels, ADVICE)
            weights = config.model.weights
            stages = stage_plans(config, data.steps_per_epoch)
            return data, stages, start_tensors(Path(weights)) if weights else None

        data, stages, tensors = raise_on_all(opened)
        preflight.check_alike(cfg, data.facts() | _weights_fact(config))
        torch.manual_seed(config.seed)
        method = build_method(config, cfg, data.views, tensors)
        adversary = build_adversary(config, data.views)
        return cls(config, world, method, on_device(adversary, config, world), stages, data)

    def describe(self, config: dict[str, Any]) -> Description:
        described = describe(config)
        datasets = zip(described.data.datasets, self.data.datasets, strict=True)
        data = replace(
            described.data, datasets=tuple(each.known(opened.info).at(opened.root) for each, opened in datasets)
        )
        return replace(described, data=data, tensors=self.tensors)

    def identity(self) -> dict[str, Any]:
        assert isinstance(self.module, Method)
        terms = {term for stage in self.stages for term in stage.terms}
        return self.module.identity(max(self.config.bn_groups(stage.batch) for stage in self.stages), terms)

    def summary(self, module: nn.Module) -> list[str]:
        assert isinstance(module, Method)
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6
        several = len({plan.batch for plan in self.stages}) > 1
        stages = ", ".join(f"{plan.name} {plan.steps}" + f" of {plan.batch} images" * several for plan in self.stages)
        return [
            *self.data.summary(self.stages[0]),
            f"method: {parameters:.1f} M parameters; steps by stage: {stages}",
            *remarks(self.config, module),
            *few_steps(self.config, self.stages),
        ]

    def process_counts(self) -> list[int]:
        return process_counts(self.config)

    def set_progress(self, module: nn.Module, share: float) -> None:
        assert isinstance(module, Method)
        module.progress = share

    def finish(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> list[str]:
        if restores(stage.terms):
            self._draw(stage, run, unsharded)
        return []

    def _draw(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> None:
        """Write pictures and restoration table at the end of the stage, once, on the main process."""
        method, validate = unsharded(), self.config.validate
        if run is None or (run.folder / "pictures" / f"{stage.name}.png").exists():
            return
        held_out = self.data.held_out(validate.batch, -(-validate.restored // validate.batch))
        if held_out is None:
            return
        method = method.to(self.objective.world.device)
        run.lease.check()
        with run.optional_write("pictures"):
            from dira_scale.data.samples import Samples
            from dira_scale.pretrain.pictures import draw_restorations, view_spacing  # need OpenCV, scikit-image

            samples = Samples(self.data.datasets, str(self.config.data.val_split))
            draw_restorations(
                run.folder / "pictures", stage, self.objective, method, held_out, validate.pictures,
                lambda index: view_spacing(self.data.held_out_views, samples.spacing(index)),
            )  # fmt: skip

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        return self.diagnosis.warnings(row, position)


def build_adversary(config: Pretrain, views: ViewSpec) -> Adversary:
    return adversary_of(config.adversary.loss, config.adversary.penalty, config.model, views.size)


def on_device(adversary: Adversary, config: Pretrain, world: World) -> Adversary:
    """``adversary`` on the training device, in the images' memory format."""
    moved(adversary, world.device, config.parallel.channels_last)
    return adversary


def build_method(config: Pretrain, cfg: DictConfig, views: Any, tensors: dict[str, Tensor] | None = None) -> Method:
    """Build the method and try every stage with its optimizer, so that an error shows now, not hours later."""
    batch, accumulate = next(iter(batches_of(config).values())), config.parallel.accumulate
    method = methods.build(cfg.method, cfg.model, views, batch, accumulate, tensors)
    try_stages(config, method)
    return method


def try_stages(config: Pretrain, method: Method) -> None:
    """Raise UserError for a stage that cannot be trained as configured, with its batch and the optimizer."""
    accumulate = config.parallel.accumulate
    for name, batch in batches_of(config).items():
        try:
            method.enter_stage(config.stages[name].terms)
            methods.check_batch(method, batch, config.bn_groups(batch), accumulate)
            if "ad" in config.stages[name].terms:
                check_size(method.views.sides)
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error
        optimizer = optim.stage_optimizer(config.optim, method, batch)
        if config.parallel.strategy.startswith("zero"):
            parallel.refuse_layerwise(optimizer)


def remarks(config: Pretrain, method: Method) -> list[str]:
    """The method's lines on the (micro-)batches of all stages."""
    accumulate, lines = config.parallel.accumulate, dict[str, None]()
    for name, batch in batches_of(config).items():
        groups = max(1, config.bn_groups(batch) // accumulate)
        lines |= dict.fromkeys(method.remarks(batch // accumulate, groups, config.stages[name].terms))
    return [*lines]


def _weights_fact(config: Pretrain) -> dict[str, str]:
    """What the file ``model.weights`` contains, which must be the same on all processes."""
    if config.model.weights is None or not Path(config.model.weights).is_file():
        return {}
    with Path(config.model.weights).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"the file model.weights": digest[: preflight.DIGITS]}
