"""Deformations of views, whose restoration target stays: rotation and scaling, and elastic fields.

torchio's RandomAffine, and TransVW's elastic deformation (Simard et al., ICDAR 2003): in-plane, the same alpha and
sigma everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.arguments import Above, Within
from dira_scale.train.data import random
from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.constants import constant
from dira_scale.train.data.distort.corruptions.draws import KEY, Params, Sometimes, field, key
from dira_scale.train.data.distort.corruptions.intensity import matrices, smoothed
from dira_scale.train.data.views.parts import BELOW_ONE, Chance


@dataclass(frozen=True)
class Affine(Sometimes):
    """With probability ``p``, turned in the plane of each two axes by up to ``degrees`` either way, and scaled along
    each axis by a factor from 1 - ``scale`` to 1 + ``scale``. Beyond the edges is the view's minimum.

    Parameters: ``on`` bool [b], ``matrix`` float32 [b, n, n]: from a voxel's place about
    the centre to that of what it shows.
    """

    p: Chance = 1.0
    degrees: Annotated[float, Within(0, 180)] = 10.0
    scale: Annotated[float, BELOW_ONE] = 0.1

    def numbers(self, size: Sequence[int]) -> int:
        n = len(size)
        return 1 + n + n * (n - 1) // 2

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
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

    def changed(self, x: Tensor, params: Params) -> Tensor:
        size, matrix = x.shape[2:], params["matrix"]
        places = [torch.arange(side, device=x.device) - (side - 1) / 2 for side in size]
        axes = torch.meshgrid(*places, indexing="ij")
        grid = x.new_zeros(len(x), *size, len(size))  # in grid_sample's units, of half a side, and its order
        for i, side in enumerate(size):
            for j, axis in enumerate(axes):  # no matrix product, which may be rounded to 16 bits
                grid[..., -1 - i] += per_sample(matrix[:, i, j] * (2 / side), grid[..., 0]) * axis
        least = x.amin(tuple(range(1, x.dim())), keepdim=True)
        return F.grid_sample(x - least, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + least


@dataclass(frozen=True)
class Elastic(Sometimes):
    """With probability ``p``, voxels move along the last two axes by noise from -1 to 1, smoothed by a Gaussian of
    ``sigma`` voxels along all axes (0 beyond the view), times ``alpha``; linear interpolation, mirrored edges.

    Parameters: ``on`` bool [b], ``key`` int64 [b].
    """

    p: Chance = 1.0
    alpha: float = 991.0
    sigma: Annotated[float, Above(0)] = 8.0

    def numbers(self, size: Sequence[int]) -> int:
        return 1 + KEY

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        return {"on": u[:, 0] < self.p, "key": key(u[:, 1:])}

    def changed(self, x: Tensor, params: Params) -> Tensor:
        size = x.shape[2:]
        noise = field(params["key"], size, channels=2).sub_(0.5)  # down, across
        plan = getattr(x, "fake_mode", None)
        moved = smoothed(noise, [_filter(side, self.sigma, x.device, plan) for side in size])
        height, width = size[-2:]
        # In grid_sample's units, of half a side; each plane by itself, as nothing moves along a volume's first axis.
        step = constant((4 * self.alpha / width, 4 * self.alpha / height), moved)
        down, across = ((2 * torch.arange(n, device=x.device) + 1) / n - 1 for n in (height, width))
        here = torch.stack(torch.meshgrid(across, down, indexing="xy"), -1)
        grid = torch.addcmul(here, moved.flip(1).movedim(1, -1), step)
        planes = x.movedim(1, -3) if x.dim() == 5 else x
        flat = planes.reshape(-1, *planes.shape[-3:])
        sampled = F.grid_sample(
            flat, grid.view(-1, height, width, 2), mode="bilinear", padding_mode="reflection", align_corners=False
        ).view(planes.shape)
        return sampled.movedim(-3, 1) if x.dim() == 5 else sampled


@lru_cache(16)
def _filter(side: int, sigma: float, device: torch.device, plan: object) -> Tensor:
    """A ``plan``, whose tensors have no values, has its own."""
    return matrices(side, torch.full((1,), sigma, device=device), sigma, mirrored=False)
