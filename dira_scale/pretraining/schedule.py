"""Batch and length of every stage, from the configuration and the size of the data. Pure arithmetic."""

from collections.abc import Callable

from dira_scale.data.epochs import steps_of
from dira_scale.engine.task import StagePlan
from dira_scale.errors import UserError
from dira_scale.pretraining.config import Pretrain


def batches_of(config: Pretrain) -> dict[str, int]:
    """The global batch of every stage that is trained."""
    return {name: stage.batch or config.data.batch for name, stage in config.stages.items() if stage.epochs > 0}


def stage_plans(config: Pretrain, steps_per_epoch: Callable[[int], int]) -> list[StagePlan]:
    """A plan for every stage that is trained; ``steps_per_epoch`` gives the steps per epoch at a batch size.

    Raises:
        UserError: the warm-up is as long as a stage, or longer.
    """
    plans: list[StagePlan] = []
    for name, batch in batches_of(config).items():
        stage, warmup = config.stages[name], config.optim.warmup_epochs
        if warmup and warmup >= stage.epochs:
            raise UserError(
                f"optim.warmup_epochs={warmup:g} is not shorter than stages.{name}.epochs={stage.epochs:g}: every "
                "stage has its own warm-up; use a shorter warm-up or a longer stage"
            )
        per_epoch = steps_per_epoch(batch)
        steps = steps_of(stage.epochs * config.epoch_factor, per_epoch)
        plans.append(
            StagePlan(
                name=name,
                batch=batch,
                steps=steps,
                per_epoch=per_epoch,
                terms=tuple(stage.terms),
                warmup=min(steps - 1, round(warmup * config.epoch_factor * per_epoch)),
                patience=stage.patience,
            )
        )
    return plans
