"""What follows from a stage's configuration and data: its batch, its lengths in steps, its rates. Pure arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass

from dira_scale.config.compose import Optim, Pretrain
from dira_scale.engine import optim
from dira_scale.errors import UserError


@dataclass(frozen=True)
class Plan:
    """One stage, in optimizer steps.

    Attributes:
        batch: global.
        steps: if it is not stopped early; at least one.
        warmup: the first of these, over which the rate rises.
        per_epoch: steps of an epoch at this batch.
    """

    batch: int
    steps: int
    warmup: int
    per_epoch: int

    def rate(self, config: Optim, initial: float, step: int) -> float:
        """Rate of the stage's ``step``-th step in a group that began with ``initial``."""
        return optim.learning_rate(config.schedule, initial, step, self.steps, self.per_epoch, self.warmup, config.end)


def batches_of(config: Pretrain) -> dict[str, int]:
    """The global batch of every stage that is trained."""
    return {name: stage.batch or config.data.batch for name, stage in config.stages.items() if stage.epochs > 0}


def order_start(before: Plan, after: Plan, consumed: int) -> int:
    """Where the order of stage ``after`` begins when ``before`` has consumed ``consumed`` steps of its own, all stages
    of one batch sharing an order: there, or with another batch at the next whole epoch, so that no view comes twice."""
    return consumed if after.batch == before.batch else -(-consumed // before.per_epoch) * after.per_epoch


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
