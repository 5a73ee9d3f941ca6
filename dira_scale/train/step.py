"""One optimizer step of the generator, then one of the discriminator on the same reconstructions."""

import hashlib

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dira_scale.config import Pretrain, Stage
from dira_scale.data.batch import Batch
from dira_scale.models.norm import commit_statistics
from dira_scale.train import parallel
from dira_scale.train.guard import GRADIENT, Guard
from dira_scale.train.health import Health
from dira_scale.train.metrics import Means
from dira_scale.train.objective import Objective


class Step:
    """Steps of one run; :meth:`enter_stage` before those of a stage. Nothing here waits for the device.

    Args:
        discriminator_optimizer: of ``objective.adversary``.
        ranks: processes that take the step together.
        means: where losses and monitors are counted.
    """

    optimizer: Optimizer
    guard: Guard  # of this stage

    def __init__(
        self, config: Pretrain, objective: Objective, discriminator_optimizer: Optimizer, ranks: int, means: Means
    ) -> None:
        self.config, self.objective, self.ranks, self.means = config, objective, ranks, means
        self.method, self.adversary, self.device = objective.method, objective.adversary, objective.device
        self.discriminator_optimizer = discriminator_optimizer
        self.health = Health(self.method, self.adversary, config.health.every, config.parallel.accumulate)

    def enter_stage(self, stage: Stage, engine: nn.Module, optimizer: Optimizer) -> None:
        """``engine`` is the method as it is called in training."""
        self.stage, self.engine, self.optimizer = stage, engine, optimizer
        self.guard = Guard(self.device)

    def __call__(self, step: int, batch: Batch) -> None:
        """Take the step after ``step`` others on this rank's ``batch``."""
        adversarial, accumulate = "ad" in self.stage.terms, self.config.parallel.accumulate
        pairs: list[tuple[Tensor, Tensor]] = []
        for i, micro in enumerate(batch.to(self.device).split(accumulate)):
            torch.manual_seed(_mix(self.config.seed, step, i))  # drop-path and the like: a function of the step
            last = i == accumulate - 1
            looking = self.health.due(step, last)
            with parallel.unsynchronised(self.engine, last):
                terms, losses = self.objective(self.engine, micro, self.stage)
                if looking:
                    self.means.add(self.health.measure(terms, losses))
                factor = self.guard.losses(step, losses)
                (losses["loss"] * factor / accumulate).backward()
            self.means.add(losses | terms.monitors)
            if adversarial:
                assert terms.restored is not None and terms.target is not None
                pairs.append((terms.target, terms.restored.detach()))
            del terms, losses  # not alive in the next forward pass
        self.means.add({"gradient_norm": self.guard.gradients(step, self.method)})
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if adversarial:
            self._discriminate(step, pairs)
        commit_statistics(self.method)
        self.method.after_step()

    def _discriminate(self, step: int, pairs: list[tuple[Tensor, Tensor]]) -> None:
        for real, fake in pairs:
            loss = {"loss/discriminator": self.adversary.discriminator_loss(real, fake)}
            factor = self.guard.losses(step, loss)
            (loss["loss/discriminator"] * factor / len(pairs)).backward()
            self.means.add(loss)
        parallel.average_gradients(self.adversary, self.ranks)
        self.guard.gradients(step, self.adversary, f"{GRADIENT} of the discriminator")
        self.discriminator_optimizer.step()
        self.discriminator_optimizer.zero_grad(set_to_none=True)


def _mix(*words: int) -> int:
    """A seed of 63 bits from integers."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
