"""The labels of many samples at once, from manifests."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from dira_scale.training.inputs import Inputs


def targets_of(data: "Inputs", split: str) -> Tensor:
    """Of all samples of a split, counted over all datasets: float32 [N, L] of 0, 1 and NaN."""
    assert data.labels is not None
    parts = zip(data.datasets, map(list, data.labels.columns), strict=True)
    values = [dataset.flags(dataset.rows(split))[:, columns] for dataset, columns in parts]
    return data.labels.targets(torch.from_numpy(np.concatenate(values)))


def learned(data: "Inputs") -> Tensor:
    """Of the samples that are trained on."""
    targets, selection = targets_of(data, data.data.split), data.order.selection
    return targets if selection is None else targets[torch.from_numpy(selection.samples)]


def balance(targets: Tensor, exclusive: bool) -> tuple[float, ...]:
    """The weights with which both answers to each label count equally, or all classes do.

    Of labels the weight of a positive, a negative having 1: negatives / positives. Of classes N / (C x the class's).
    """
    positives, negatives = (targets == 1).sum(0), (targets == 0).sum(0)
    weights = positives.sum() / (len(positives) * positives) if exclusive else negatives / positives
    return tuple(weights.tolist())
