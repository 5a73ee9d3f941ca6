"""One optimizer step of the generator, then one of the discriminator on the same reconstructions."""

import hashlib

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from dira_scale.data.batch import Batch
from dira_scale.engine import parallel
from dira_scale.engine.means import Means
from dira_scale.engine.nan_guard import GRADIENT, Guard
from dira_scale.models.norm import commit_statistics
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.monitors import Health
from dira_scale.pretraining.objective import Objective
from dira_scale.pretraining.stages import Stage


class Step:
    """Steps of one run; :meth:`enter_stage` before those of a stage. Nothing here waits for the device, but in fp16.

    Args:
        discriminator_optimizer: of ``objective.adversary``.
        ranks: processes that take the step together.
        means: where losses and monitors are counted.
    """

    guard: Guard  # of this stage
    health: Health | None = None

    def __init__(
        self, config: Pretrain, objective: Objective, discriminator_optimizer: Optimizer, ranks: int, means: Means
    ) -> None:
        self.config, self.objective, self.ranks, self.means = config, objective, ranks, means
        self.adversary, self.device = objective.adversary, objective.device
        self.discriminator_optimizer = discriminator_optimizer
        self.scale = parallel.LossScale(config.precision == "fp16")

    def leave_stage(self) -> None:
        """Hold on to nothing of the strategy's: what it has cut up is to go before the next stage comes."""
        if self.health is not None:
            self.health.close()
            del self.method, self.strategy, self.objective.method
        self.health = None

    def enter_stage(self, stage: Stage, strategy: parallel.Strategy) -> None:
        """Steps are of ``stage`` and by ``strategy``, which has entered it, from now on."""
        self.stage, self.strategy, self.method = stage, strategy, strategy.method
        self.guard = Guard(self.device)
        every, accumulate = self.config.health.every, self.config.parallel.accumulate
        self.health = Health(self.method, self.adversary, every, accumulate, strategy.whole_losses)

    def __call__(self, step: int, batch: Batch) -> None:
        """Take the step after ``step`` others on this rank's ``batch``."""
        assert self.health is not None, "enter_stage comes first"
        adversarial, accumulate = "ad" in self.stage.terms, self.config.parallel.accumulate
        pairs: list[tuple[Tensor, Tensor]] = []
        seen: dict[str, Tensor] = {}
        for i, micro in enumerate(batch.to(self.device).split(accumulate)):
            torch.manual_seed(_mix(self.config.seed, step, i))  # drop-path and the like: a function of the step
            last = i == accumulate - 1
            looking = self.health.due(step, last)
            with self.strategy.accumulating(last):
                terms, losses = self.objective(self.strategy.engine, micro, self.stage)
                if looking:
                    seen = self.health.measure(terms, losses, self.scale.value)
                factor = self.guard.losses(step, losses)
                self.strategy.backward(losses["loss"] * factor * (self.scale.value / accumulate))
            self.means.add(losses | terms.monitors)
            if adversarial:
                assert terms.restored is not None and terms.target is not None
                pairs.append((terms.target, terms.restored.detach()))
            del terms, losses  # not alive in the next forward pass
        self._move(step, seen)
        if adversarial:
            self._discriminate(step, pairs)
        commit_statistics(self.method)
        self.method.after_step()

    def _move(self, step: int, seen: dict[str, Tensor]) -> None:
        """The generator's step; ``seen`` of its health does not count where fp16 leaves the step out."""
        gradients = self.strategy.gradients()
        self.scale.unscale(gradients)
        norm = self.strategy.norm(gradients)
        if self.scale.skips(norm):
            return self.strategy.skip()
        self.means.add({"gradient_norm": norm} | seen)
        self.guard.gradients(step, gradients, norm)
        if self.config.optim.clip is not None and gradients:
            factor = (self.config.optim.clip / (norm + 1e-6)).clamp(max=1.0)  # NaN where the guard has cleared them
            torch._foreach_mul_(gradients, factor.nan_to_num(0.0).to(gradients[0].device))
        self.strategy.step()

    def _discriminate(self, step: int, pairs: list[tuple[Tensor, Tensor]]) -> None:
        for real, fake in pairs:
            loss = {"loss/discriminator": self.adversary.discriminator_loss(real, fake)}
            factor = self.guard.losses(step, loss)
            (loss["loss/discriminator"] * factor / len(pairs)).backward()
            self.means.add(loss)
        parallel.average_gradients(self.adversary, self.ranks)
        gradients = [p.grad for p in self.adversary.parameters() if p.grad is not None]
        self.guard.gradients(step, gradients, get_total_norm(gradients), f"{GRADIENT} of the discriminator")
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad(set_to_none=True)


def _mix(*words: int) -> int:
    """A seed of 63 bits from integers."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
