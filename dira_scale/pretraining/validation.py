"""Held-out images: the validation loss, and what the network makes of them. Nothing here changes the method."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.held_out import HeldOutBatches
from dira_scale.distributed.collectives import gather, world
from dira_scale.engine.means import Means
from dira_scale.metrics.neighbours import knn_scores, mean_auc
from dira_scale.pretraining.objective import Objective
from dira_scale.pretraining.pictures import Restoration, write_pictures
from dira_scale.pretraining.stages import Stage

IMAGES = 4096  # whose neighbours are asked at a validation, about, at most: bounds the table of similarities


@dataclass
class Validate:
    every: int = MISSING
    batch: int = MISSING
    batches: int | None = None
    pictures: int = MISSING
    restored: int = MISSING


@torch.no_grad()
def validation_losses(objective: Objective, held_out: HeldOutBatches, stage: Stage) -> dict[str, float]:
    """Means over the held-out split of all losses and monitors, with fixed views, equal on all ranks.

    With labels also ``health/knn_auc``: how well an image's nearest neighbours among the others, by the encoder's
    pooled features of the first view, know its labels.
    """
    means = Means()
    features: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluating(objective.method):
        for stored, count in held_out.batches():
            batch = stored.to(objective.device)
            terms, losses = objective(objective.method, batch, stage)
            means.add(losses | terms.monitors, count)
            if batch.labels is not None and terms.pyramids and len(features) * held_out.order.batch < IMAGES / world():
                features.append(terms.pyramids[0][-1][:count].float().mean(dim=(2, 3)))
                labels.append(batch.labels[:count])
    auc = _knn_auc(torch.cat(features), torch.cat(labels)) if features else math.nan
    return means.take() | ({} if math.isnan(auc) else {"health/knn_auc": auc})


@torch.no_grad()
def first_broken(objective: Objective, held_out: HeldOutBatches, stage: Stage) -> tuple[Batch, dict[str, float]] | None:
    """The first of this process's held-out batches with a loss that is no number, as it is stored, and its losses.

    Collective where the method is sharded: every process goes through all of its batches.
    """
    first: tuple[Batch, dict[str, float]] | None = None
    with evaluating(objective.method):
        for stored, _ in held_out.batches():
            _, losses = objective(objective.method, stored.to(objective.device), stage)
            values = {name: float(loss) for name, loss in losses.items()}
            if first is None and not all(map(math.isfinite, values.values())):
                first = stored, values
    return first


def _knn_auc(features: Tensor, labels: Tensor) -> float:
    """Of all ranks' images, each asked of all others; [n, dim] and [n, L], n differs between ranks. Collective."""
    together = torch.cat([features, labels.float()], dim=1)
    counts = gather(torch.tensor([len(together)], device=together.device)).tolist()
    padded = together.new_zeros(max(counts), together.shape[1])
    padded[: len(together)] = together
    parts = gather(padded[None])
    everyone = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    features, labels = everyone.split([features.shape[1], labels.shape[1]], dim=1)
    # Of few images each one's own label is missed in the vote, which alone would push the area below one half.
    k = min(20, max(1, len(features) // 10))
    return mean_auc(knn_scores(features, labels, features, k, leave_one_out=True), labels)


@torch.no_grad()
def draw_restorations(
    folder: Path, name: str, objective: Objective, held_out: HeldOutBatches, stage: Stage, rows: int
) -> None:
    """A stage's picture grid and its table of restoration beside trivial restorers, on one process."""
    with evaluating(objective.method):
        write_pictures(folder, name, _restorations(objective, held_out, stage), rows)


def _restorations(objective: Objective, held_out: HeldOutBatches, stage: Stage) -> Iterator[Restoration]:
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
