"""Contrast: InfoNCE with a queue (MoCo; van den Oord et al. 2018), or in the batch (SimCLR), PCRL's binary NCE."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return the mean over b of -log(e^(q·k/t) / (e^(q·k/t) + sum over the queue of e^(q·n/t))) (DiRA, eq. 5).

    Args:
        queries, keys: [b, D], of unit length; key i belongs to query i.
        queue: [K, D], of unit length, whose dtype the loss is computed in.

    Example:
        >>> import torch.nn.functional as F
        >>> queries, keys = (F.normalize(torch.randn(8, 128), dim=1) for _ in range(2))
        >>> queue = F.normalize(torch.randn(512, 128), dim=1)
        >>> info_nce(queries, keys, queue, temperature=0.2).shape
        torch.Size([])
    """
    with torch.autocast(queries.device.type, enabled=False):  # too coarse for a loss
        logits = similarities(queries, keys, queue) / temperature
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        return F.cross_entropy(logits, target)


def nt_xent(z1: Tensor, z2: Tensor, all1: Tensor, all2: Tensor, first: int, temperature: float) -> Tensor:
    """Return the mean over both views of -log(e^(z·z'/t) / sum over all other views of e^(z·v/t)), z' the other view of
    z's image (SimCLR, eq. 1).

    Args:
        z1, z2: [b, D], of unit length, two views of b images.
        all1, all2: [B, D], those of a batch of which these images are number ``first`` and the next.

    Example:
        >>> import torch.nn.functional as F
        >>> z1, z2 = (F.normalize(torch.randn(8, 128), dim=1) for _ in range(2))
        >>> nt_xent(z1, z2, z1, z2, first=0, temperature=0.1).shape
        torch.Size([])
    """
    own = torch.arange(first, first + len(z1), device=z1.device)
    itself = F.one_hot(own, len(all1)).bool()
    losses = []
    for z, others, same in ((z1, all2, all1), (z2, all1, all2)):
        among = (z @ same.T).masked_fill(itself, float("-inf"))
        losses.append(F.cross_entropy(torch.cat([z @ others.T, among], 1) / temperature, own))
    return (losses[0] + losses[1]) / 2


def similarities(queries: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    """Return q·k of each query [b, D] with its key [b, D], then with the queue [K, D]: [b, 1 + K]."""
    positive = (queries * keys).sum(dim=1, keepdim=True)
    return torch.cat([positive, queries @ queue.T], dim=1)


def exponentials(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Return e^(q·k/t) of each query's key, then of the queue: [b, 1 + K], in the queue's dtype."""
    with torch.autocast(queries.device.type, enabled=False):
        return (similarities(queries, keys, queue) / temperature).exp()


def nce(ratios: Tensor) -> Tensor:
    """Return binary NCE: the mean over b of -log(r_0 / (r_0 + K)) - the sum over the queue of log(K / (r + K)).

    Args:
        ratios: r [b, 1 + K]: e^(similarity / temperature), over its mean Z.

    The released code of PCRL divides by n Z, with a noise probability of 1 / n, n being the number of batches in an
    epoch; n cancels, but for its epsilon: 1e-5 n is added to K, which adds about that much to the loss (0.01 at 1,227
    batches) and nothing to its gradient. It also cuts n Z to a whole number, by 1 / (n Z) at most.

    Example:
        >>> queries, keys, queue = torch.eye(3), torch.eye(3), torch.eye(3)
        >>> scores = exponentials(queries, keys, queue, temperature=0.2)
        >>> nce(scores / scores.mean()).shape
        torch.Size([])
    """
    positive, negatives = ratios[:, 0], ratios[:, 1:]
    count = negatives.shape[1]
    return (torch.log1p(count / positive) + torch.log1p(negatives / count).sum(dim=1)).mean()
