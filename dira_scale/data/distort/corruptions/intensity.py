"""Blur and noise: torchio's RandomBlur, and the additive noise of Models Genesis' fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dira_scale.data import random
from dira_scale.data.batch import per_sample
from dira_scale.data.distort.corruptions.draws import KEY, Params, field, key, of_some, share
from dira_scale.data.distort.corruptions.smoothing import matrices, smoothed
from dira_scale.errors import UserError


@dataclass(frozen=True)
class GaussianBlur:
    """With probability ``p``, a Gaussian whose standard deviation on each axis is from ``sigma``, in voxels.

    Parameters: ``on`` bool [b], ``sigma`` float32 [b, n].
    """

    p: float = 1.0
    sigma: tuple[float, float] = (0.0, 2.0)

    def numbers(self, size: Sequence[int]) -> int:
        """See ``Corruption``."""
        share("p", self.p)
        if not 0 <= self.sigma[0] <= self.sigma[1] <= min(size):
            raise UserError(f"sigma={list(self.sigma)}: expected 0 <= sigma[0] <= sigma[1], at most a side of the view")
        return 1 + len(size)

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``Corruption``."""
        return {"on": u[:, 0] < self.p, "sigma": random.between(u[:, 1:], *self.sigma).astype(np.float32)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See ``Corruption``."""
        return of_some(x, params["on"], params, _blurred)


def _blurred(x: Tensor, params: Params) -> Tensor:
    filters = [matrices(side, sigma) for side, sigma in zip(x.shape[2:], params["sigma"].unbind(1), strict=True)]
    return smoothed(x, filters)


@dataclass(frozen=True)
class GaussianNoise:
    """With probability ``p``, noise of a standard deviation from ``sigma``; clipped to [0, 1].

    Parameters: ``on`` bool [b], ``key`` int64 [b], ``sigma`` float32 [b].
    """

    p: float = 1.0
    sigma: tuple[float, float] = (0.0, 0.1)

    def numbers(self, size: Sequence[int]) -> int:
        """See ``Corruption``."""
        share("p", self.p)
        if not 0 <= self.sigma[0] <= self.sigma[1]:
            raise UserError(f"sigma={list(self.sigma)}: expected 0 <= sigma[0] <= sigma[1]")
        return 2 + KEY

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``Corruption``."""
        sigma = random.between(u[:, 1], *self.sigma).astype(np.float32)
        return {"on": u[:, 0] < self.p, "key": key(u[:, 2:]), "sigma": sigma}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See ``Corruption``."""
        return of_some(x, params["on"], params, _noisy)


def _noisy(x: Tensor, params: Params) -> Tensor:
    u = field(params["key"], x.shape[2:], x.shape[1]).double() + 2.0**-25  # never 0, never 1
    noise = torch.special.ndtri(u).float()
    return (x + per_sample(params["sigma"], x) * noise).clamp(0, 1)
