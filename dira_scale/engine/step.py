"""One optimizer step: forward and backward passes of its micro-batches, the module's step, the replicas' steps."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from dira_scale.distributed.precision import LossScale
from dira_scale.engine.means import Means
from dira_scale.engine.nan_guard import GRADIENT, NaNGuard
from dira_scale.engine.parallel.model import StageModel, average_gradients
from dira_scale.engine.task import Batch, Replica, StagePlan, Task
from dira_scale.engine.watchdog import alive
from dira_scale.models.norm import commit_statistics


class Step:
    """The steps of one stage. Nothing here waits for the device, except under fp16.

    Args:
        model: the task's module under its strategy, made for this stage.
        guard: notes what is not finite.
        scale: of losses.
        means: where losses and monitors are counted.
        seed: of the run.
        accumulate: micro-batches of a step.
    """

    def __init__(
        self,
        task: Task,
        stage: StagePlan,
        model: StageModel,
        guard: NaNGuard,
        scale: LossScale,
        means: Means,
        seed: int,
        accumulate: int,
    ) -> None:
        self.task, self.stage, self.model, self.guard, self.scale, self.means = task, stage, model, guard, scale, means
        self.seed, self.accumulate = seed, accumulate

    def __call__(self, step: int, batch: Batch) -> None:
        """Take the step after ``step`` others on this rank's ``batch``."""
        task, model, last = self.task, self.model, self.accumulate - 1
        carried: list[Any] = []
        seen: dict[str, Tensor] = {}
        for i, micro in enumerate(batch.to(self.guard.device).split(self.accumulate)):
            alive()
            torch.manual_seed(_mix(self.seed, step, i))  # drop-path and the like: a function of the step
            with model.accumulating(i == last):
                losses = task.losses(self.stage, model.wrapped, micro)
                values = losses.values()
                if i == last and step % task.look_every == 0:
                    seen = task.look(losses, self.scale.value, model.differentiable)
                factor = self.guard.losses(step, values)
                model.backward(losses.total * factor * (self.scale.value / self.accumulate))
            self.means.add(values | dict(losses.monitors))
            carried.append(losses.carried)
            del losses, values  # not alive in the next forward pass
        self._move(step, seen)
        for replica in task.replicas:
            self._teach(step, replica, carried)
        commit_statistics(model.module)
        task.after_step(model.module)

    def _move(self, step: int, seen: dict[str, Tensor]) -> None:
        """The module's step; what was ``seen`` does not count where fp16 leaves the step out."""
        gradients = self.model.gradients()
        self.scale.unscale(gradients)
        norm = self.model.norm(gradients)
        if self.scale.skips(norm):
            return self.model.skip()
        self.means.add({"gradient_norm": norm} | seen)
        self.guard.gradients(step, gradients, norm)
        clip = self.task.optim.clip
        if clip is not None and gradients:
            factor = (clip / (norm + 1e-6)).clamp(max=1.0)  # NaN where the guard has cleared the gradients
            torch._foreach_mul_(gradients, factor.nan_to_num(0.0).to(gradients[0].device))
        self.model.step()

    def _teach(self, step: int, replica: Replica, carried: list[Any]) -> None:
        """A replica's step, by the mean of its micro-batches' losses; its gradients are averaged over ranks."""
        for part in carried:
            loss = replica.loss(part)
            if loss is None:
                return
            values = {f"loss/{replica.name}": loss}
            factor = self.guard.losses(step, values)
            (loss * factor / len(carried)).backward()
            self.means.add(values)
        average_gradients(replica.module)
        gradients = [p.grad for p in replica.module.parameters() if p.grad is not None]
        self.guard.gradients(step, gradients, get_total_norm(gradients), f"{GRADIENT} of the {replica.name}")
        replica.optimizer.step()
        replica.optimizer.zero_grad(set_to_none=True)


def _mix(*words: int) -> int:
    """A seed of 63 bits from integers."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
