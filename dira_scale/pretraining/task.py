"""Pretraining as a task of the engine: a method trained through its stages, with the adversary beside it."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale import methods
from dira_scale.data.batch import Batch
from dira_scale.data.epochs import longer
from dira_scale.data.held_out import HeldOutBatches
from dira_scale.data.loaders import Loader
from dira_scale.distributed import processes
from dira_scale.distributed.control import raise_on_all
from dira_scale.distributed.world import World
from dira_scale.engine import optim, parallel, preflight
from dira_scale.engine.task import StagePlan, StagePosition
from dira_scale.errors import UserError
from dira_scale.methods.adversary import Adversary
from dira_scale.methods.method import Method
from dira_scale.models.network import moved
from dira_scale.pretraining.broken_batch import save_batch
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.diagnosis import Diagnosis
from dira_scale.pretraining.monitors import Monitors
from dira_scale.pretraining.objective import Forward, Objective, PretrainLosses, restores
from dira_scale.pretraining.process_counts import check_division, process_counts
from dira_scale.pretraining.schedule import batches_of, stage_plans
from dira_scale.pretraining.validation import first_broken, validation_losses
from dira_scale.runs.folder import RunFolder

if TYPE_CHECKING:
    from dira_scale.data.inputs import Inputs


@dataclass(frozen=True)
class DiscriminatorTraining:
    """The adversary: it learns to distinguish clean from restored patches, after each step of the generator."""

    module: Adversary
    optimizer: Optimizer
    name: str = "discriminator"

    def loss(self, carried: tuple[Tensor, Tensor] | None) -> Tensor | None:
        return None if carried is None else self.module.discriminator_loss(*carried)


class PretrainTask:
    """A method, built and checked, on its data (see :class:`dira_scale.engine.task.Task`).

    Args:
        method: unsharded, on the CPU.
        adversary: on the device.
        stages: the stages to train.
        inputs: None if no batches are loaded (in a rehearsal).
    """

    def __init__(
        self,
        config: Pretrain,
        world: World,
        method: Method,
        adversary: Adversary,
        stages: list[StagePlan],
        inputs: "Inputs | None" = None,
    ) -> None:
        self.config, self.inputs, self.module, self.stages, self.optim = config, inputs, method, stages, config.optim
        judge = optim.build(config.optim.discriminator, list(adversary.parameters()), "optim.discriminator")
        self.side_modules = [DiscriminatorTraining(adversary, judge)]
        self.objective = Objective(method.weights, adversary, method.views, world)
        self.monitors = Monitors(method.weights, adversary, config.parallel.accumulate)
        self.diagnosis = Diagnosis(config)
        self.monitor_every = config.health.every
        validate = config.validate
        self.held_out: HeldOutBatches | None = None
        if inputs is not None:
            self.held_out = inputs.held_out(validate.batch, validate.batches, world.rank, world.ranks)
        self.validate_every = validate.every if self.held_out is not None else None

    @classmethod
    def build(cls, config: Pretrain, cfg: DictConfig, world: World) -> "PretrainTask":
        """Open the data, build the method, check every stage. Collective.

        Raises:
            UserError: on all processes; names the wrong key, dataset or process.
        """

        # Here, as a step is benchmarked and rehearsed where no shards are, hence no pyarrow.
        from dira_scale.data.inputs import Inputs
        from dira_scale.data.manifest import INFO_FILE
        from dira_scale.runs.reader import start_tensors

        def opened() -> tuple[Inputs, list[StagePlan], dict[str, Tensor] | None]:
            check_division(config, world.ranks)
            if (Path(config.run) / INFO_FILE).exists():
                raise UserError(f"run={config.run} is a dataset: name a folder for the run, such as run=out/runs/mine")
            batches = tuple(set(batches_of(config).values()))
            inputs = Inputs(
                config.data, methods.views_of(cfg), config.seed, world.rank, world.ranks, batches, world.device,
                processes.default_threads(),
            )  # fmt: skip
            weights = config.model.weights
            stages = stage_plans(config, inputs.steps_per_epoch)
            return inputs, stages, start_tensors(Path(weights)) if weights else None

        inputs, stages, tensors = raise_on_all(opened)
        preflight.check_alike(cfg, _facts(config, inputs))
        torch.manual_seed(config.seed)
        method = build_method(config, cfg, inputs.views, tensors)
        adversary = on_device(Adversary(config.adversary.loss, config.model.dimensions), config, world)
        return cls(config, world, method, adversary, stages, inputs)

    def identity(self) -> dict[str, Any]:
        assert self.inputs is not None
        return self.inputs.identity()

    def summary(self, module: nn.Module) -> list[str]:
        assert self.inputs is not None
        orders = self.inputs.orders
        order = orders[self.stages[0].batch]
        parameters = sum(p.numel() for p in module.parameters() if p.requires_grad) / 1e6
        stages = ", ".join(
            f"{plan.name} {plan.steps}" + f" of {plan.batch} images" * (len(orders) > 1) for plan in self.stages
        )
        images = f"{sum(order.sizes)} images"
        if order.selection:
            images = f"{sum(order.sizes)} of {order.split_size} images ({order.selection.keys})"
        return [
            f"data: {images}, {order.steps_per_epoch} steps an epoch, {order.dropped} dropped in turn",
            f"{self.inputs.loader_choice}, {self.inputs.workers} thread(s)"
            + " in a process of its own" * self.config.data.helper,
            f"method: {parameters:.1f} M parameters; steps by stage: {stages}",
            *self._too_short(),
        ]

    def _too_short(self) -> list[str]:
        """A line if the experiment is known to need more steps than are planned, as with few images."""
        planned, enough = sum(plan.steps for plan in self.stages), self.config.enough_steps
        factor = longer(planned, enough, self.config.epoch_factor)
        if factor is None:
            return []
        return [
            f"few steps: {planned} are planned, and this experiment has been seen to learn in {enough}: "
            f"epoch_factor={factor:g} plans as many"
        ]

    def process_counts(self) -> list[int]:
        return process_counts(self.config)

    def prepare(self, stage: StagePlan, module: nn.Module) -> nn.Module:
        assert isinstance(module, Method)
        module.enter_stage(stage.terms)
        return Forward(module)

    def loader(self, stage: StagePlan) -> Loader:
        assert self.inputs is not None
        return self.inputs.train(stage.batch)

    def losses(self, stage: StagePlan, model: nn.Module, micro: Batch) -> PretrainLosses:
        return self.objective(model, micro, stage.terms)

    def monitor(self, losses: PretrainLosses, scale: float, differentiable: bool) -> dict[str, Tensor]:
        return self.monitors.measure(losses, scale, differentiable)

    def after_step(self, module: nn.Module) -> None:
        assert isinstance(module, Method)
        module.after_step()

    def set_progress(self, module: nn.Module, share: float) -> None:
        assert isinstance(module, Method)
        module.progress = share

    def validate(self, stage: StagePlan, module: nn.Module) -> dict[str, float]:
        assert self.held_out is not None
        return validation_losses(self.objective, module, self.held_out, stage.terms)

    def finish(self, stage: StagePlan, run: RunFolder | None, unsharded: Callable[[], nn.Module]) -> None:
        """Write pictures and restoration table at the end of the stage, once, on the main process."""
        if not restores(stage.terms):
            return
        method, validate = unsharded(), self.config.validate
        if run is None or self.held_out is None or (run.folder / "pictures" / f"{stage.name}.png").exists():
            return
        assert self.inputs is not None
        held_out = self.inputs.held_out(validate.batch, -(-validate.restored // validate.batch))
        assert held_out is not None
        method = method.to(self.objective.world.device)
        run.lease.check()
        with run.optional_write("pictures"):
            from dira_scale.pretraining.pictures import draw_restorations  # needs OpenCV and scikit-image

            draw_restorations(run.folder / "pictures", stage, self.objective, method, held_out, validate.pictures)

    def diagnose(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        return self.diagnosis.warnings(row, position)

    def first_broken(self, stage: StagePlan, module: nn.Module) -> tuple[Batch, dict[str, float]] | None:
        assert self.held_out is not None
        return first_broken(self.objective, module, self.held_out, stage.terms)

    def save_batch(self, folder: Path, batch: Batch, held_out: bool, row: dict[str, Any]) -> None:
        assert self.inputs is not None
        split = self.inputs.data.val_split if held_out else self.inputs.data.split
        save_batch(folder, batch, self.inputs.datasets, str(split), row)


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
            methods.check_batch(method, batch, config.model.bn_groups, accumulate)
        except UserError as error:
            raise UserError(f"stage {name}: {error}") from error
        optimizer = optim.stage_optimizer(config.optim, method, batch)
        if config.parallel.strategy.startswith("zero"):
            parallel.refuse_layerwise(optimizer)


def _facts(config: Pretrain, inputs: "Inputs") -> dict[str, str]:
    """What must be the same on all processes beside the configuration, keyed by its name in messages."""
    digits = preflight.DIGITS
    facts = {
        f"the content of dataset {i + 1} of data.shards": dataset.hash[:digits]
        for i, dataset in enumerate(inputs.datasets)
    }
    if inputs.order.selection is not None:
        facts["the rows that data.fraction and data.negatives choose"] = inputs.order.selection.identity[:digits]
    if config.model.weights is not None and Path(config.model.weights).is_file():
        with Path(config.model.weights).open("rb") as file:
            facts["the file model.weights"] = hashlib.file_digest(file, "sha256").hexdigest()[:digits]
    return facts
