"""A stage as it is configured and as it is trained: its batch, its length in steps, its rates. Pure arithmetic."""

from dataclasses import dataclass

from omegaconf import MISSING

from dira_scale.engine import optim
from dira_scale.engine.optim import Optim


@dataclass
class Stage:
    terms: list[str] = MISSING
    epochs: float = MISSING
    patience: int | None = None
    batch: int | None = None


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


def order_start(before: Plan, after: Plan, consumed: int) -> int:
    """Where the order of stage ``after`` begins when ``before`` has consumed ``consumed`` steps of its own, all stages
    of one batch sharing an order: there, or with another batch at the next whole epoch, so that no view comes twice."""
    return consumed if after.batch == before.batch else -(-consumed // before.per_epoch) * after.per_epoch
