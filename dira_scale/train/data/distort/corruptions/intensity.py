"""Intensities of voxels: blur, noise and non-linear curves.

torchio's RandomBlur, the additive noise of Models Genesis' fine-tuning, and its non-linear intensity (sec. 2.2): a
random monotone curve from (0, 0) to (1, 1), or mirrored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import ArgumentError, AtLeast
from dira_scale.train.data import random
from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.constants import constant
from dira_scale.train.data.distort.corruptions.draws import KEY, Params, Sometimes, field, key
from dira_scale.train.data.views.parts import Ascending, Chance

REACH = 4.0  # standard deviations at which a filter ends (SciPy's default)
NODES = 4096  # of the curves' tables: a curve's error is about 4e-6


@dataclass(frozen=True)
class GaussianBlur(Sometimes):
    """With probability ``p``, a Gaussian whose standard deviation on each axis is from ``sigma``, in voxels.

    Parameters: ``on`` bool [b], ``sigma`` float32 [b, n].
    """

    p: Chance = 1.0
    sigma: Annotated[tuple[float, float], Ascending(AtLeast(0))] = (0.0, 2.0)

    def numbers(self, size: Sequence[int]) -> int:
        if self.sigma[1] > min(size):
            raise ArgumentError("sigma", self.sigma, f"at most {min(size)}, the shortest side of the view")
        return 1 + len(size)

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        return {"on": u[:, 0] < self.p, "sigma": random.between(u[:, 1:], *self.sigma).astype(np.float32)}

    def changed(self, x: Tensor, params: Params) -> Tensor:
        axes = zip(x.shape[2:], params["sigma"].unbind(1), strict=True)
        return smoothed(x, [matrices(side, sigma, self.sigma[1]) for side, sigma in axes])


@dataclass(frozen=True)
class GaussianNoise(Sometimes):
    """With probability ``p``, noise of a standard deviation from ``sigma``; clipped to [0, 1].

    Parameters: ``on`` bool [b], ``key`` int64 [b], ``sigma`` float32 [b].
    """

    p: Chance = 1.0
    sigma: Annotated[tuple[float, float], Ascending(AtLeast(0))] = (0.0, 0.1)

    def numbers(self, size: Sequence[int]) -> int:
        return 2 + KEY

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        sigma = random.between(u[:, 1], *self.sigma).astype(np.float32)
        return {"on": u[:, 0] < self.p, "key": key(u[:, 2:]), "sigma": sigma}

    def changed(self, x: Tensor, params: Params) -> Tensor:
        u = field(params["key"], x.shape[2:], x.shape[1]).double() + 2.0**-25  # never 0, never 1
        noise = torch.special.ndtri(u).float()
        return (x + per_sample(params["sigma"], x) * noise).clamp(0, 1)


@dataclass(frozen=True)
class Bezier(Sometimes):
    """With probability ``p``, intensities go through a cubic Bézier curve with two random inner points.

    Half of the curves rise; the others have their ordinates in the opposite order, as in the authors' code, which sorts
    the abscissae only: dark becomes bright.

    Parameters: ``on``, ``falls`` bool [b], ``points`` float32 [b, 4]: x, x, y, y of the inner points.
    """

    p: Chance = 0.9

    def numbers(self, size: Sequence[int]) -> int:
        return 6

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        return {"on": u[:, 0] < self.p, "falls": u[:, 1] < 0.5, "points": u[:, 2:].astype(np.float32)}

    def changed(self, x: Tensor, params: Params) -> Tensor:
        # By a table of ordinates [b, NODES] over u, with intensity = sin²(π u / 2), as curves may be vertical at both
        # ends. Their abscissae rise, as the inner points are within [0, 1].
        t = torch.linspace(0, 1, NODES, dtype=torch.float64, device=x.device)
        across, second_across, up, second_up = params["points"].double()[:, :, None].unbind(1)
        curve = _cubic(across, second_across, t).contiguous()
        wanted = torch.sin(t * (math.pi / 2)).square().expand(len(curve), -1).contiguous()
        right = torch.searchsorted(curve, wanted).clamp(1, NODES - 1)
        left_x, right_x = curve.gather(1, right - 1), curve.gather(1, right)
        weight = ((wanted - left_x) / (right_x - left_x).clamp(min=1e-300)).clamp(0, 1)
        at = (right - 1 + weight) / (NODES - 1)
        table = _cubic(up, second_up, torch.where(params["falls"][:, None], 1 - at, at)).float()
        u = x.clamp(0, 1).sqrt_().asin_().mul_((NODES - 1) * 2 / math.pi).flatten(1)
        index, step = u.long().clamp_(max=NODES - 2), table.diff(dim=1)
        return u.sub_(index).mul_(step.gather(1, index)).add_(table.gather(1, index)).view(x.shape)


def _cubic(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return a coordinate of the Bézier curve from 0 to 1 with inner points ``a`` and ``b``, at ``t``."""
    return 3 * a * t * (1 - t) ** 2 + 3 * b * t**2 * (1 - t) + t**3


def matrices(side: int, sigma: Tensor, most: float, mirrored: bool = True) -> Tensor:
    """Return SciPy's ``gaussian_filter`` along an axis of ``side`` voxels, a matrix for each ``sigma`` [b] in voxels (0
    for none), none above ``most``: [b, side, side].

    Beyond the edges is the volume ``mirrored``, or 0 (SciPy's ``reflect`` and ``constant``).
    """
    sigma, position = sigma.double()[:, None, None, None], torch.arange(side, device=sigma.device)
    reach, (signs, shifts) = torch.floor(REACH * sigma + 0.5), _images(side, int(REACH * most + 1.5))
    sign, shift = (constant(each, position)[:, None, None] for each in (signs, shifts))
    distance = (position[:, None] + sign * position + shift).abs()
    weights = torch.where(distance <= reach, torch.exp(-0.5 * (distance / sigma.clamp(min=1e-9)) ** 2), 0.0)
    total = reduce(torch.add, weights.unbind(1))  # one after another: in this order on every device
    within = total if mirrored else weights[:, shifts.index(0)]
    return (within / total.sum(2, keepdim=True)).float()


@lru_cache(64)
def _images(side: int, reach: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the images of an axis that come within ``reach`` of it, itself among them: their signs, and shifts.

    The axis is mirrored at its edges, edge voxels repeated, and so are its images. One has voxel c at -sign c - shift.
    """
    images = []
    for turn in range(-1 - int(REACH), 2 + int(REACH)):
        shift = 2 * side * turn
        images += [(-1, shift)] if abs(shift) - side < reach else []
        images += [(1, shift + 1)] if max(shift, -shift - 2 * side) < reach else []
    signs, shifts = zip(*images, strict=True)
    return signs, shifts


def smoothed(x: Tensor, filters: list[Tensor]) -> Tensor:
    """``x`` [b, C, *size], filtered along each axis by its matrices [b or 1, n, n]."""
    for axis, matrix in enumerate(filters, 2):
        before, side = math.prod(x.shape[1:axis]), x.shape[axis]
        if axis == x.dim() - 1:
            x = (x.reshape(len(x), before, side) @ matrix.mT).view(x.shape)
        else:  # without a copy with this axis last
            x = (matrix[:, None] @ x.reshape(len(x), before, side, -1)).view(x.shape)
    return x
