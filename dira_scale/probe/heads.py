"""Linear models of frozen features by gradient descent, for several learning rates at once: DINOv3's evaluation.

Its 13 rates, momentum, batch and cosine, without weight decay (eval/linear.py of facebookresearch/dinov3). Ours: yes or
no, or a number, for each label instead of one class of many, standardised features, heads that start at 0, and a tenth
of its 12,500 steps, as labelled sets of medical images are smaller.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)  # for a batch of 256
BATCH, STEPS, MOMENTUM = 128, 1250, 0.9


def train_heads(
    features: Tensor, labels: Tensor, rates: Sequence[float] = RATES, steps: int = STEPS, numbers: bool = False
) -> Tensor:
    """Weights and, last, biases of a model for each rate and label: [R, d + 1, L], on the features' device.

    All see the same batches, which are drawn from one seed. Each label has its own loss over its known images in the
    batch: binary cross-entropy, of numbers half the squared error.

    Args:
        features: float32 [n, d].
        labels: [n, L] of 0, 1 and NaN (unknown), or, with ``numbers``, of numbers and NaN.
    """
    inputs, batch = with_ones(features), min(BATCH, len(features))
    known, targets = (~labels.isnan()).float(), labels.nan_to_num()
    rows = batches(len(features), batch, steps).to(features.device)
    scaled = torch.tensor([rate * batch / 256 for rate in rates], device=features.device)[:, None, None]
    weights = features.new_zeros(len(rates), inputs.shape[1], labels.shape[1])
    velocity = torch.zeros_like(weights)
    for step, drawn in enumerate(rows):
        x, counted = inputs[drawn], known[drawn]
        answers = x @ weights if numbers else (x @ weights).sigmoid()
        errors = (answers - targets[drawn]) * counted / counted.sum(0).clamp(min=1)
        velocity.mul_(MOMENTUM).add_(x.T @ errors)
        weights -= scaled * (1 + math.cos(math.pi * step / steps)) / 2 * velocity
    return weights


def with_ones(features: Tensor) -> Tensor:
    """[n, d] -> [n, d + 1], for the biases."""
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def batches(count: int, batch: int, steps: int) -> Tensor:
    """Row numbers int64 [steps, batch]: one permutation of all rows after another, the same at every call."""
    generator, passes = torch.Generator().manual_seed(0), -(-steps * batch // count)
    rows = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    return rows[: steps * batch].reshape(steps, batch)
