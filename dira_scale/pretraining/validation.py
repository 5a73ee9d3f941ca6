"""Held-out images: the validation loss, and what the network makes of them. Nothing here changes the method."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dira_scale.config.schema import Schema, at_least
from dira_scale.data.batch import Batch
from dira_scale.data.held_out import HeldOutBatches
from dira_scale.distributed.collectives import gather, world
from dira_scale.engine.means import Means
from dira_scale.engine.task import StagePlan
from dira_scale.metrics.neighbours import knn_scores, mean_auc
from dira_scale.models.heads import global_average
from dira_scale.pretraining.objective import Objective
from dira_scale.pretraining.pictures import Restoration, write_pictures

IMAGES = 4096  # whose neighbours are asked at a validation, about, at most: bounds the table of similarities


@dataclass
class Validate(Schema):
    every: int = at_least(1)
    batch: int = at_least(1)
    batches: int | None = at_least(1, None)
    pictures: int = at_least(1)
    restored: int = at_least(2)


@torch.no_grad()
def validation_losses(
    objective: Objective, method: nn.Module, held_out: HeldOutBatches, terms: Sequence[str]
) -> dict[str, float]:
    """Means over the held-out split of a stage's losses and monitors, with fixed views, equal on all ranks.

    With labels also ``health/knn_auc``: how well an image's nearest neighbours among the others, by the encoder's
    pooled features of the first view, know its labels.
    """
    means = Means()
    features: list[Tensor] = []
    labels: list[Tensor] = []
    with evaluating(method):
        for stored, count in held_out.batches():
            batch = stored.to(objective.world.device)
            losses = objective(method, batch, terms)
            means.add(losses.values() | dict(losses.monitors), count)
            assert losses.outputs is not None
            pyramids = losses.outputs.pyramids
            if batch.labels is not None and pyramids and len(features) * held_out.order.batch < IMAGES / world():
                features.append(global_average(pyramids[0][-1][:count].float()))
                labels.append(batch.labels[:count])
    auc = _knn_auc(torch.cat(features), torch.cat(labels)) if features else math.nan
    return means.take() | ({} if math.isnan(auc) else {"health/knn_auc": auc})


@torch.no_grad()
def first_broken(
    objective: Objective, method: nn.Module, held_out: HeldOutBatches, terms: Sequence[str]
) -> tuple[Batch, dict[str, float]] | None:
    """The first of this process's held-out batches with a loss that is not finite, as it is stored, and its losses.

    Collective where the method is sharded: every process goes through all of its batches.
    """
    first: tuple[Batch, dict[str, float]] | None = None
    with evaluating(method):
        for stored, _ in held_out.batches():
            losses = objective(method, stored.to(objective.world.device), terms).values()
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
    folder: Path, stage: StagePlan, objective: Objective, method: nn.Module, held_out: HeldOutBatches, rows: int
) -> None:
    """A stage's picture grid and its table of restoration beside trivial restorers, on one process."""
    with evaluating(method):
        write_pictures(folder, stage.name, _restorations(objective, method, held_out, stage.terms), rows)


def _restorations(
    objective: Objective, method: nn.Module, held_out: HeldOutBatches, terms: Sequence[str]
) -> Iterator[Restoration]:
    for stored, _ in held_out.batches():
        batch = stored.to(objective.world.device)
        distorted = objective.distorted(batch, terms)
        outputs = objective.forward(method, batch, distorted)
        assert outputs.target is not None and outputs.restored is not None
        undisturbed = objective.distorted(batch, terms, corrupt=False)
        # As the target lies, so that a mirrored input costs the trivial restorers nothing.
        distorted, undisturbed = objective.upright(distorted, batch), objective.upright(undisturbed, batch)
        hole = (distorted[0] == 0) & (undisturbed[0] != 0)
        count = len(hole)  # of the first view: a method may restore several
        yield Restoration(outputs.target[:count], distorted[0], hole, outputs.restored[:count])


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, training mode after."""
    module.eval()
    try:
        yield
    finally:
        module.train()
