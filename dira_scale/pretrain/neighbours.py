"""How well an image's labels are predicted by its nearest neighbours in feature space, of all held-out images."""

import math

import torch
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.labels import UNCERTAIN
from dira_scale.distributed.collectives import gather, world
from dira_scale.metrics.neighbours import knn_scores, mean_auc
from dira_scale.models.heads import global_average
from dira_scale.pretrain.objective import PretrainLosses

IMAGES = 4096  # approximately: limits the table of similarities


class NeighbourAUC:
    """``health/knn_auc``, by the encoder's pooled features of the first view; nothing without labels or features.

    Args:
        batch: samples of a held-out batch.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self._features: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, batch: Batch, losses: PretrainLosses, count: int) -> None:
        pyramids = losses.outputs.pyramids
        if batch.labels is not None and pyramids and len(self._features) * self.batch < IMAGES / world():
            self._features.append(global_average(pyramids[0][-1][:count].float()))
            self._labels.append(batch.labels[:count])

    def values(self) -> dict[str, float]:
        if not self._features:
            return {}
        auc = knn_auc(torch.cat(self._features), torch.cat(self._labels))
        return {} if math.isnan(auc) else {"health/knn_auc": auc}


def knn_auc(features: Tensor, labels: Tensor) -> float:
    """Leave-one-out kNN over all ranks' images; [n, dim] and [n, L], n may differ between ranks. Collective."""
    local = torch.cat([features, labels.float()], dim=1)
    counts = gather(torch.tensor([len(local)], device=local.device)).tolist()
    padded = local.new_zeros(max(counts), local.shape[1])
    padded[: len(local)] = local
    parts = gather(padded[None])
    everyone = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    features, labels = everyone.split([features.shape[1], labels.shape[1]], dim=1)
    of_yes_and_no = (labels.isnan() | torch.isin(labels, labels.new_tensor([0, 1, UNCERTAIN]))).all(0)
    labels = labels[:, of_yes_and_no]  # the others are numbers
    # With few images, leaving out an image's own label biases the vote against it: the AUC would fall below one half.
    k = min(20, max(1, len(features) // 10))
    return mean_auc(knn_scores(features, labels, features, k, leave_one_out=True), labels)
