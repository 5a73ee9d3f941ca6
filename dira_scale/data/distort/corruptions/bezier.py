"""Non-linear intensity (Models Genesis, sec. 2.2): a random monotone curve from (0, 0) to (1, 1), or mirrored."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.distort.corruptions.draws import Params, of_some, share

NODES = 4096  # of the tables below: the curve's error is about 4e-6


@dataclass(frozen=True)
class Bezier:
    """With probability ``p``, intensities go through a cubic Bézier curve with two random inner points.

    Half of the curves rise; the others have their ordinates in the opposite order, as in the authors' code, which sorts
    the abscissae only: dark becomes bright.

    Parameters: ``on``, ``falls`` bool [b], ``points`` float32 [b, 4]: x, x, y, y of the inner points.
    """

    p: float = 0.9

    def numbers(self, size: Sequence[int]) -> int:
        """See ``Corruption``."""
        share("p", self.p)
        return 6

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``Corruption``."""
        return {"on": u[:, 0] < self.p, "falls": u[:, 1] < 0.5, "points": u[:, 2:].astype(np.float32)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See ``Corruption``."""
        return of_some(x, params["on"], params, _curved)


def _curved(x: Tensor, params: Params) -> Tensor:
    """By a table over u with intensity = sin²(π u / 2), as curves may be vertical at both ends."""
    u = x.clamp(0, 1).sqrt_().asin_().mul_((NODES - 1) * 2 / math.pi).flatten(1)
    index = u.long().clamp_(max=NODES - 2)
    table = _table(params["points"], params["falls"])
    step = table.diff(dim=1)
    return u.sub_(index).mul_(step.gather(1, index)).add_(table.gather(1, index)).view(x.shape)


def _table(points: Tensor, falls: Tensor) -> Tensor:
    """Ordinates [b, NODES] of the curves at abscissae sin²(π u / 2) with evenly spaced u."""
    points = points.double()
    t = torch.linspace(0, 1, NODES, dtype=torch.float64, device=points.device)

    def curve(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return 3 * a[:, None] * t * (1 - t) ** 2 + 3 * b[:, None] * t**2 * (1 - t) + t**3

    x = curve(points[:, 0], points[:, 1], t).contiguous()  # rises, as its points are within [0, 1]
    wanted = torch.sin(t * (math.pi / 2)).square().expand(len(x), -1).contiguous()
    right = torch.searchsorted(x, wanted).clamp(1, NODES - 1)
    left_x, right_x = x.gather(1, right - 1), x.gather(1, right)
    weight = ((wanted - left_x) / (right_x - left_x).clamp(min=1e-300)).clamp(0, 1)
    at = (right - 1 + weight) / (NODES - 1)
    at = torch.where(falls[:, None], 1 - at, at)
    return curve(points[:, 2], points[:, 3], at).float()
