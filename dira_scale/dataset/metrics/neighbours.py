"""Weighted k-nearest-neighbour classification of frozen features: label information without any training.

Wu et al. (CVPR 2018, sec. 3.4) with DINO's k of 20 (Caron et al., ICCV 2021): the k nearest by cosine similarity s vote
with weight exp(s / 0.07). Labels are independent, so each has its own vote.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK, TABLE = 1024, 2**27  # queries at once; similarities, at most


def knn_scores(
    bank: Tensor | np.ndarray,
    bank_labels: Tensor | np.ndarray,
    queries: Tensor | np.ndarray,
    k: int = 20,
    temperature: float = 0.07,
    leave_one_out: bool = False,
) -> Tensor:
    """The share of the vote for each label, of numbers the mean weighted so: float32 [m, L], on the device of ``bank``.

    Args:
        bank, queries: features [n, d] and [m, d]; their norms do not matter.
        bank_labels: [n, L] in [0, 1], or any numbers; NaN = unknown. A label's voters are the k nearest images whose
            label is known (all such images if fewer than k); its scores are NaN if there are none.
        leave_one_out: ``queries`` are ``bank`` itself, in the same order; no image votes for itself.
    """
    features, labels = torch.as_tensor(bank), torch.as_tensor(bank_labels)
    query, labels = torch.as_tensor(queries).to(features.device), labels.to(features.device, torch.float32)
    assert not leave_one_out or query.shape == features.shape, "leave_one_out: the queries must be the bank"
    features, query = (F.normalize(x.float(), dim=1) for x in (features, query))
    scores = labels.new_full((len(query), labels.shape[1]), torch.nan)
    known, pattern = torch.unique(~labels.isnan(), dim=1, return_inverse=True)  # groups labels known of the same images
    chunk = max(1, min(CHUNK, TABLE // len(features)))
    for first in range(0, len(query), chunk):
        similarity = query[first : first + chunk] @ features.T
        if leave_one_out:
            rows = torch.arange(len(similarity), device=features.device)
            similarity[rows, first + rows] = -torch.inf
        for i, voters in enumerate(known.T):
            columns = (pattern == i).nonzero()[:, 0]
            votes = _votes(similarity[:, voters], labels[voters][:, columns], k, temperature)
            scores[first : first + chunk, columns] = votes
    return scores


def mean_auc(scores: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> float:
    """Area under the ROC curve, averaged over the labels that have both classes; NaN if none has. Both [n, L].

    Labels from 0.5 on are positive; images with unknown label or score do not count.
    """
    score_array, label_array = torch.as_tensor(scores).cpu().numpy(), torch.as_tensor(labels).cpu().numpy()
    areas = []
    for score, label in zip(score_array.T, label_array.T, strict=True):
        known = ~(np.isnan(label) | np.isnan(score))
        positive = label[known] >= 0.5
        if positive.any() and not positive.all():
            areas.append(roc_auc(positive, score[known]))
    return float(np.mean(areas)) if areas else float("nan")


def roc_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """What scikit-learn's ``roc_auc_score`` returns, to the last bit: each training process has 600 modules less."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # of equal scores
    true = np.cumsum(positive[order])[ends]
    false = 1 + ends - true
    if len(ends) > 2:  # points on a line between others change the rounding
        corner = np.concatenate([[True], (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0), [True]])
        true, false = true[corner], false[corner]
    return float(np.trapezoid(np.append(0, true) / true[-1], np.append(0, false) / false[-1]))


def _votes(similarity: Tensor, labels: Tensor, k: int, temperature: float) -> Tensor:
    """Weighted mean label [m, C] of the k best columns of ``similarity`` [m, n]; ``labels`` [n, C]."""
    if not len(labels):
        return labels.new_full((len(similarity), labels.shape[1]), torch.nan)
    nearest, index = similarity.topk(min(k, len(labels)), dim=1)
    # Relative to the best, against overflow; an excluded image, at -inf, has weight 0, even if it is the only one.
    weights = ((nearest - nearest[:, :1]) / temperature).exp().masked_fill(nearest.isneginf(), 0.0)
    return torch.einsum("mk,mkc->mc", weights / weights.sum(dim=1, keepdim=True), labels[index])


def nearest_of_others(
    features: np.ndarray, owners: np.ndarray, queries: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the ``k`` features that are nearest to each query's by cosine similarity, and these similarities
    [m, k], the nearest first. A query's own row and all others of its owner, such as its patient, do not count.

    Args:
        features: float32 [n, d].
        owners: whole numbers [n].
        queries: rows [m]. The features of each must have ``k`` others.
    """
    bank, owner = F.normalize(torch.from_numpy(features), dim=1), torch.from_numpy(owners)
    found = []
    for rows in torch.from_numpy(queries).split(max(1, min(CHUNK, TABLE // len(bank)))):
        similarity = (bank[rows] @ bank.T).masked_fill_(owner[rows, None] == owner, -torch.inf)
        found.append(similarity.topk(k, dim=1))
    return torch.cat([each.indices for each in found]).numpy(), torch.cat([each.values for each in found]).numpy()
