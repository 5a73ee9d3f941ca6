"""What follows for every stage from the whole configuration and the data: batches and lengths. Pure arithmetic."""

from collections.abc import Callable

from dira_scale.engine import optim
from dira_scale.errors import UserError
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.stages import Plan


def batches_of(config: Pretrain) -> dict[str, int]:
    """The global batch of every stage that is trained."""
    return {name: stage.batch or config.data.batch for name, stage in config.stages.items() if stage.epochs > 0}


def plan(config: Pretrain, steps_per_epoch: Callable[[int], int]) -> dict[str, Plan]:
    """A plan for every stage that is trained; ``steps_per_epoch`` says how many steps of a batch are an epoch.

    Raises:
        UserError: the warm-up is as long as a stage, or the schedule is none.
    """
    optim.check_schedule(config.optim)
    plans: dict[str, Plan] = {}
    for name, batch in batches_of(config).items():
        epochs, warmup = config.stages[name].epochs, config.optim.warmup_epochs
        if warmup and warmup >= epochs:
            raise UserError(
                f"optim.warmup_epochs={warmup:g} is no shorter than stages.{name}.epochs={epochs:g}: every stage warms "
                "up anew; take a shorter warm-up or a longer stage"
            )
        per_epoch = steps_per_epoch(batch)
        steps = max(1, round(epochs * config.epoch_factor * per_epoch))
        plans[name] = Plan(batch, steps, min(steps - 1, round(warmup * config.epoch_factor * per_epoch)), per_epoch)
    return plans
