"""Held-out samples: means of their losses, figures over all of them, the first with a loss that is not finite."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from dira_scale.engine.means import Means
from dira_scale.engine.task import Batch, Losses, StagePlan
from dira_scale.engine.watchdog import alive


class HeldOut(Protocol):
    """Held-out batches, such as :class:`dira_scale.training.held_out.HeldOutBatches`."""

    def batches(self) -> Iterator[tuple[Any, int]]:
        """This rank's batches, on the host, each with the number of its samples that this rank counts."""
        ...


class Figure(Protocol):
    """What is computed of all held-out samples at once, such as an area under a curve."""

    def add(self, batch: Any, losses: Any, count: int) -> None:
        """A batch on the device and its losses; its first ``count`` samples count."""
        ...

    def values(self) -> dict[str, float]:
        """By their names in metrics, the same on all ranks. Collective."""
        ...


class Validation:
    """A task's :class:`dira_scale.engine.task.Validation`. Nothing here changes the module.

    Args:
        every: epochs between two validations.
        losses: the task's, of a batch on ``device``, as in training.
        figures: created anew for each validation.
    """

    def __init__(
        self,
        every: int,
        held_out: HeldOut,
        losses: Callable[[StagePlan, nn.Module, Any], Losses],
        device: torch.device,
        figures: Sequence[Callable[[], Figure]] = (),
    ) -> None:
        self.every, self.held_out, self.losses, self.device, self.figures = every, held_out, losses, device, figures

    @torch.no_grad()
    def means(self, stage: StagePlan, module: nn.Module) -> dict[str, float]:
        """Losses, monitors and figures of ``stage`` over the held-out split; equal on all ranks."""
        means, figures = Means(), [make() for make in self.figures]
        for _, batch, losses, count in self._passes(stage, module):
            means.add(losses.values() | dict(losses.monitors), count)
            for figure in figures:
                figure.add(batch, losses, count)
        found: dict[str, float] = {}
        for figure in figures:
            found |= figure.values()
        return means.take() | found

    @torch.no_grad()
    def first_broken(self, stage: StagePlan, module: nn.Module) -> tuple[Batch, dict[str, float]] | None:
        """This process's first held-out batch with a loss that is not finite, as loaded, and its losses.

        Collective if the module is sharded, so every process goes through all of its batches.
        """
        first: tuple[Batch, dict[str, float]] | None = None
        for stored, _, losses, _ in self._passes(stage, module):
            values = {name: float(loss) for name, loss in losses.values().items()}
            if first is None and not all(map(math.isfinite, values.values())):
                first = stored, values
        return first

    def _passes(self, stage: StagePlan, module: nn.Module) -> Iterator[tuple[Batch, Batch, Losses, int]]:
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
