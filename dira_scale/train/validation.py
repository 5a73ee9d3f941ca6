"""Held-out samples: means of their losses, scores of all of them, the first with a loss that is not finite."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from dira_scale.train.engine.means import Means
from dira_scale.train.engine.task import Losses, StagePlan, TaskBatch
from dira_scale.train.engine.watchdog import alive
from dira_scale.train.runs.description import Best

LOWEST_LOSS = Best()


class HeldOut(Protocol):
    """Held-out batches, such as :class:`dira_scale.train.held_out.HeldOutBatches`."""

    @property
    def samples(self) -> int:
        """The number of samples of all ranks."""

    def batches(self) -> Iterator[tuple[Any, int]]:
        """This rank's batches, on the host, each with the number of its samples that this rank counts."""


class Score(Protocol):
    """Figures that are computed of all held-out samples at once, such as an area under a curve."""

    def add(self, batch: Any, losses: Any, count: int) -> None:
        """A batch on the device and its losses; its first ``count`` samples count."""

    def values(self) -> dict[str, float]:
        """By their names in metrics, the same on all ranks. Collective."""


class HeldOutValidation:
    """A task's :class:`dira_scale.train.engine.task.Validation`. Nothing here changes the module.

    Args:
        every: epochs between two validations.
        losses: the task's, of a batch on ``device``, as in training.
        scores: created anew for each validation.
        more: figures of the module in evaluation mode, such as of whole volumes; equal on all ranks. Collective.
        best: the figure, of losses, monitors or scores, that decides which checkpoint is best.
    """

    def __init__(
        self,
        every: int,
        held_out: HeldOut,
        losses: Callable[[StagePlan, nn.Module, Any], Losses],
        device: torch.device,
        scores: Sequence[Callable[[], Score]] = (),
        best: Best = LOWEST_LOSS,
        more: Callable[[nn.Module], dict[str, float]] = lambda module: {},
    ) -> None:
        self.every, self.held_out, self.losses, self.device, self.scores = every, held_out, losses, device, scores
        self.best, self.more = best, more

    @torch.no_grad()
    def means(self, stage: StagePlan, module: nn.Module) -> dict[str, float]:
        """Losses, monitors and scores of ``stage`` over the held-out split; equal on all ranks."""
        means, scores = Means(), [make() for make in self.scores]
        for _, batch, losses, count in self._passes(stage, module):
            means.add(losses.values() | dict(losses.monitors), count)
            for score in scores:
                score.add(batch, losses, count)
        values = {name: value for score in scores for name, value in score.values().items()}
        with evaluating(module):
            return means.take() | values | self.more(module)

    @torch.no_grad()
    def first_broken(self, stage: StagePlan, module: nn.Module) -> tuple[TaskBatch, dict[str, float]] | None:
        """This process's first held-out batch with a loss that is not finite, as loaded, and its losses.

        Collective if the module is sharded, so every process goes through all of its batches.
        """
        first: tuple[TaskBatch, dict[str, float]] | None = None
        for stored, _, losses, _ in self._passes(stage, module):
            values = {name: float(loss) for name, loss in losses.values().items()}
            if first is None and not all(map(math.isfinite, values.values())):
                first = stored, values
        return first

    def _passes(self, stage: StagePlan, module: nn.Module) -> Iterator[tuple[TaskBatch, TaskBatch, Losses, int]]:
        """Each batch as loaded and on the device, its losses, and how many of its samples count."""
        with evaluating(module):
            for stored, count in self.held_out.batches():
                alive()
                batch = stored.to(self.device)
                yield stored, batch, self.losses(stage, module, batch), count


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, training mode afterwards."""
    module.eval()
    try:
        yield
    finally:
        module.train()
        if isinstance(module, FSDPModule):  # a pass without gradients leaves it whole: what is then written is lost
            module.reshard()
