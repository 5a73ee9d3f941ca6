"""Rotation and scaling about a view's centre: torchio's RandomAffine."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data import random
from dira_scale.data.batch import per_sample
from dira_scale.data.distort.corruptions.draws import Params, of_some, share
from dira_scale.errors import UserError


@dataclass(frozen=True)
class Affine:
    """With probability ``p``, turned in the plane of each two axes by up to ``degrees`` either way, and scaled along
    each axis by a factor from 1 - ``scale`` to 1 + ``scale``. Beyond the edges is the view's minimum.

    The restoration target stays. Parameters: ``on`` bool [b], ``matrix`` float32 [b, n, n]: from a voxel's place about
    the centre to that of what it shows.
    """

    p: float = 1.0
    degrees: float = 10.0
    scale: float = 0.1

    def numbers(self, size: Sequence[int]) -> int:
        """See ``Corruption``."""
        share("p", self.p)
        if not 0 <= self.degrees <= 180:
            raise UserError(f"degrees={self.degrees}: expected a number from 0 to 180")
        if not 0 <= self.scale < 1:
            raise UserError(f"scale={self.scale}: expected a number from 0 to below 1")
        n = len(size)
        return 1 + n + n * (n - 1) // 2

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``Corruption``."""
        n = len(size)
        factors = random.between(u[:, 1 : 1 + n], 1 - self.scale, 1 + self.scale)
        matrix = np.eye(n) / factors[:, None]
        angles = np.deg2rad(random.between(u[:, 1 + n :], -self.degrees, self.degrees))
        for angle, (first, second) in zip(angles.T, combinations(range(n), 2), strict=True):
            turn = np.tile(np.eye(n), (len(u), 1, 1))
            turn[:, first, first] = turn[:, second, second] = np.cos(angle)
            turn[:, first, second], turn[:, second, first] = -np.sin(angle), np.sin(angle)
            matrix = turn @ matrix
        return {"on": u[:, 0] < self.p, "matrix": matrix.astype(np.float32)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See ``Corruption``."""
        return of_some(x, params["on"], params, _moved)


def _moved(x: Tensor, params: Params) -> Tensor:
    size, matrix = x.shape[2:], params["matrix"]
    places = [torch.arange(side, device=x.device) - (side - 1) / 2 for side in size]
    axes = torch.meshgrid(*places, indexing="ij")
    grid = x.new_zeros(len(x), *size, len(size))  # in grid_sample's units, of half a side, and its order
    for i, side in enumerate(size):
        for j, axis in enumerate(axes):  # no matrix product, which may be rounded to 16 bits
            grid[..., -1 - i] += per_sample(matrix[:, i, j] * (2 / side), grid[..., 0]) * axis
    least = x.amin(tuple(range(1, x.dim())), keepdim=True)
    return F.grid_sample(x - least, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + least
