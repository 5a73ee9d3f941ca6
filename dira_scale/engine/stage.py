"""A stage in training: one object, created when the stage begins and dropped when it ends."""

from dataclasses import dataclass

from torch import Tensor

from dira_scale.distributed.precision import LossScale
from dira_scale.distributed.world import World
from dira_scale.engine import optim
from dira_scale.engine.means import Means
from dira_scale.engine.nan_guard import NaNGuard
from dira_scale.engine.parallel import StageModel, Strategy
from dira_scale.engine.state import RunState
from dira_scale.engine.step import Step
from dira_scale.engine.task import StagePlan, Task, TaskLoader


@dataclass(frozen=True)
class StageRun:
    """Everything needed to train one stage.

    Attributes:
        model: the task's module under its strategy, with this stage's optimizer.
        guard: records what is not finite in this stage's steps.
        step: takes one optimizer step.
    """

    plan: StagePlan
    model: StageModel
    loader: TaskLoader
    guard: NaNGuard
    step: Step

    def set_pace(self, task: Task, state: RunState) -> None:
        """Set the learning rates of the next step, and the stage's progress."""
        done = state.step - state.stage_start
        task.set_progress(self.model.module, done / self.plan.steps)
        for group in self.model.optimizer.param_groups:
            if not group["fixed_rate"]:
                group["lr"] = self.plan.rate(task.optim, group["initial_lr"], done) * state.rate_factor

    def ended_early(self, state: RunState) -> bool:
        """Whether the held-out figure has not improved for the stage's ``patience`` epochs."""
        return self.plan.patience is not None and state.stale >= self.plan.patience


def begin_stage(
    plan: StagePlan,
    task: Task,
    strategy: Strategy,
    state: dict[str, Tensor],
    scale: LossScale,
    means: Means,
    seed: int,
    accumulate: int,
    world: World,
) -> StageRun:
    """Create the stage, with a new optimizer that starts from ``state`` unless that is empty. Collective."""
    loader = task.data.loader(plan)
    model = strategy.begin(
        lambda module: task.prepare(plan, module),
        lambda module: optim.stage_optimizer(task.optim, module, plan.batch),
        state,
    )
    guard = NaNGuard(world.device)
    step = Step(task, plan, model, guard, scale, means, seed, accumulate, world.device)
    return StageRun(plan, model, loader, guard, step)
