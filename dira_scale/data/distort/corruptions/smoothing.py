"""Gaussian filters along each axis, as matrices: SciPy's ``gaussian_filter``."""

import math

import torch
from torch import Tensor

REACH = 4.0  # standard deviations at which a filter ends (SciPy's default)


def matrices(side: int, sigma: Tensor, mirrored: bool = True) -> Tensor:
    """For each ``sigma`` [b] in voxels, 0 for none, the filter along an axis of ``side`` voxels: [b, side, side].

    Beyond the edges is the volume ``mirrored``, or 0 (SciPy's ``reflect`` and ``constant``).
    """
    sigma = sigma.double()[:, None, None]
    position = torch.arange(side, device=sigma.device)
    row, column = position[:, None], position[None, :]
    reach = torch.floor(REACH * sigma + 0.5)

    def weight(distance: Tensor) -> Tensor:
        return torch.where(distance <= reach, torch.exp(-0.5 * (distance / sigma.clamp(min=1e-9)) ** 2), 0.0)

    # What lies beyond an edge is the volume mirrored at it, edge voxels repeated; and again beyond that.
    turns = 2 * side * torch.arange(-1 - int(REACH), 2 + int(REACH), device=sigma.device)
    total = torch.zeros(len(sigma), side, side, dtype=torch.float64, device=sigma.device)
    for turn in turns:
        total = total + weight((row - column + turn).abs()) + weight((row + column + 1 + turn).abs())
    within = total if mirrored else weight((row - column).abs())
    return (within / total.sum(2, keepdim=True)).float()


def smoothed(x: Tensor, filters: list[Tensor]) -> Tensor:
    """``x`` [b, C, *size], filtered along each axis by its matrices [b or 1, n, n]."""
    for axis, matrix in enumerate(filters, 2):
        before, side = math.prod(x.shape[1:axis]), x.shape[axis]
        if axis == x.dim() - 1:
            x = (x.reshape(len(x), before, side) @ matrix.mT).view(x.shape)
        else:  # without a copy with this axis last
            x = (matrix[:, None] @ x.reshape(len(x), before, side, -1)).view(x.shape)
    return x
