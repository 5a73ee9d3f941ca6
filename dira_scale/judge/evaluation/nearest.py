"""The nearest of some centroids, found on a GPU: ``shard.curate.balance.clusters`` names this file and does not import
it, as archives are sharded without torch."""

from collections.abc import Callable

import numpy as np
import torch

Find = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def finder(centroids: np.ndarray, device: str = "cuda") -> Find:
    """Return what ``clusters.finder`` returns, equal up to rounding."""
    there = torch.from_numpy(centroids).to(device)
    lengths = (there * there).sum(1)

    @torch.inference_mode()
    def find(points: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        mine = torch.from_numpy(points).to(device)
        squared = ((mine * mine).sum(1, keepdim=True) + lengths - 2 * (mine @ there.T)).clamp(min=0)
        distance, number = squared.topk(count, largest=False)
        return number.int().cpu().numpy(), distance.cpu().numpy()

    return find
