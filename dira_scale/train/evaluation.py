"""Held-out images: the validation loss, and what the network makes of them. Nothing here changes the method."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from dira_scale.config import Stage
from dira_scale.train.inputs import HeldOut
from dira_scale.train.metrics import Means
from dira_scale.train.objective import Objective
from dira_scale.train.pictures import Restoration, write_pictures


@torch.no_grad()
def validation_losses(objective: Objective, held_out: HeldOut, stage: Stage) -> dict[str, float]:
    """Means over the held-out split of all losses and monitors, with fixed views, equal on all ranks."""
    means = Means()
    with evaluating(objective.method):
        for batch, count in held_out.batches():
            terms, losses = objective(objective.method, batch.to(objective.device), stage)
            means.add(losses | terms.monitors, count)
    return means.take()


@torch.no_grad()
def draw_restorations(
    folder: Path, name: str, objective: Objective, held_out: HeldOut, stage: Stage, rows: int
) -> None:
    """A stage's picture grid and its table of restoration beside trivial restorers, on one process."""
    with evaluating(objective.method):
        write_pictures(folder, name, _restorations(objective, held_out, stage), rows)


def _restorations(objective: Objective, held_out: HeldOut, stage: Stage) -> Iterator[Restoration]:
    for stored, _ in held_out.batches():
        batch = stored.to(objective.device)
        distorted = objective.distorted(batch, stage)
        terms = objective.forward(objective.method, batch, distorted)
        assert terms.target is not None and terms.restored is not None
        undisturbed = objective.distorted(batch, stage, corrupt=False)
        # As the target lies, so that a mirrored input costs the trivial restorers nothing.
        distorted, undisturbed = objective.upright(distorted, batch), objective.upright(undisturbed, batch)
        hole = (distorted[0] == 0) & (undisturbed[0] != 0)
        count = len(hole)  # of the first view: a method may restore several
        yield Restoration(terms.target[:count], distorted[0], hole, terms.restored[:count])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, training mode after."""
    module.eval()
    try:
        yield
    finally:
        module.train()
