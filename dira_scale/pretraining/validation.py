"""Held-out images: the validation loss, and pictures of their restoration. Nothing here changes the method."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dira_scale.data.batch import Batch
from dira_scale.data.held_out import HeldOutBatches
from dira_scale.distributed.collectives import gather, world
from dira_scale.engine.means import Means
from dira_scale.metrics.neighbours import knn_scores, mean_auc
from dira_scale.models.heads import global_average
from dira_scale.pretraining.objective import Objective

IMAGES = 4096  # for the nearest neighbours of a validation, approximately: limits the table of similarities


@torch.no_grad()
def validation_losses(
    objective: Objective, method: nn.Module, held_out: HeldOutBatches, terms: Sequence[str]
) -> dict[str, float]:
    """A stage's losses and monitors, averaged over the held-out split with fixed views; equal on all ranks.

    With labels also ``health/knn_auc``: how well an image's labels are predicted by its nearest neighbours, by the
    encoder's pooled features of the first view.
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
    """This process's first held-out batch with a loss that is not finite, as loaded, and its losses.

    Collective if the method is sharded, so every process goes through all of its batches.
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
    """Leave-one-out kNN over all ranks' images; [n, dim] and [n, L], n may differ between ranks. Collective."""
    own = torch.cat([features, labels.float()], dim=1)
    counts = gather(torch.tensor([len(own)], device=own.device)).tolist()
    padded = own.new_zeros(max(counts), own.shape[1])
    padded[: len(own)] = own
    parts = gather(padded[None])
    everyone = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    features, labels = everyone.split([features.shape[1], labels.shape[1]], dim=1)
    # With few images, leaving out an image's own label biases the vote against it: the AUC would fall below one half.
    k = min(20, max(1, len(features) // 10))
    return mean_auc(knn_scores(features, labels, features, k, leave_one_out=True), labels)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, training mode afterwards."""
    module.eval()
    try:
        yield
    finally:
        module.train()
