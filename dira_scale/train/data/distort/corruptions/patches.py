"""Masks of patches, for transformers that see a token there: any of them, or rectangles (BEiT; DINOv2)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from torch import Tensor

from dira_scale.base.arguments import ArgumentError, AtLeast, Bound
from dira_scale.train.data import random
from dira_scale.train.data.distort.corruptions.draws import Params
from dira_scale.train.data.views.parts import Ascending, Chance, ViewPart

TRIES = 48  # rectangles that are drawn for a view; those that do not fit into what is left to hide are left out
SMALLEST, ASPECT = 4.0, 0.3  # patches of a rectangle, at least; height over width, at least, and at most its inverse
SHARES = Ascending(Bound("above 0 and below 1", lambda share: 0 < share < 1))


@dataclass(frozen=True)
class PatchMask(ViewPart):
    """With probability ``p`` a method hides a share of a view's patches, uniform in ``share``, each as likely as any
    other (3DINO: Xu et al., npj Digital Medicine 2025).

    The view itself stays as it is: its method puts a learnt token in the place of hidden patches (``methods.dinov2``).
    DINOv2 and 3DINO hide patches of exactly half of a process's views, at shares spread evenly over these; here each
    view has its own numbers, whatever the batch.

    Parameters: ``mask`` bool [b, *patches], true where hidden.
    """

    patch: Annotated[int, AtLeast(1)] = 8
    share: Annotated[tuple[float, float], SHARES] = (0.2, 0.75)
    p: Chance = 0.5

    def numbers(self, size: Sequence[int]) -> int:
        if any(side % self.patch for side in size):
            raise ArgumentError("patch", self.patch, f"a side that divides a view of {' x '.join(map(str, size))}")
        return 2 + math.prod(self.patches(size))

    def patches(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(side // self.patch for side in size)

    def most(self, size: Sequence[int], views: int = 1) -> int:
        """Return an upper bound on the patches hidden in this number of views, exceeded once in 10^9 times: six
        standard deviations above the mean, or all that can be hidden."""
        (low, high), count = self.share, math.prod(self.patches(size))
        mean, square = self.p * (low + high) / 2, self.p * (low**2 + low * high + high**2) / 3
        bound = views * mean + 6 * math.sqrt(views * (square - mean**2))
        return min(views * int(high * count), math.ceil(bound * count))

    def wanted(self, u: np.ndarray, size: Sequence[int]) -> np.ndarray:
        """Return the number of patches to hide in each view, int64 [b]."""
        count = random.between(u[:, 1], *self.share) * math.prod(self.patches(size))
        return np.where(u[:, 0] < self.p, count, 0).astype(np.int64)

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        ranks = u[:, 2:].argsort(1, kind="stable").argsort(1)
        return {"mask": (ranks < self.wanted(u, size)[:, None]).reshape(len(u), *self.patches(size))}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return x


@dataclass(frozen=True)
class BlockwiseMask(PatchMask):
    """A ``PatchMask`` of images whose hidden patches are rectangles (BEiT: Bao et al., ICLR 2022, algorithm 1; DINOv2).

    Rectangles are added, of an area uniform in [4, what is left to hide] and an aspect log-uniform in [0.3, 1 / 0.3],
    where they hide a patch more and none too many.
    """

    patch: Annotated[int, AtLeast(1)] = 16
    share: Annotated[tuple[float, float], SHARES] = (0.1, 0.5)

    def numbers(self, size: Sequence[int]) -> int:
        super().numbers(size)
        if len(size) != 2:
            raise ValueError("BlockwiseMask hides rectangles of images; of volumes use PatchMask")
        return 2 + 4 * TRIES

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        (rows, columns), wanted = self.patches(size), self.wanted(u, size)
        mask = np.zeros((len(u), rows, columns), bool)
        for number in range(TRIES):
            area, aspect, top, left = u[:, 2 + 4 * number : 6 + 4 * number].T
            hidden = mask.sum((1, 2))
            rest = wanted - hidden
            area = SMALLEST + area * (rest - SMALLEST)
            aspect = np.exp(random.between(aspect, math.log(ASPECT), -math.log(ASPECT)))
            height, width = (
                np.round(np.sqrt(x)).astype(np.int64) for x in (area.clip(0) * aspect, area.clip(0) / aspect)
            )
            fits = (rest > 0) & (height < rows) & (width < columns)
            first, second = random.integers(top, 0, rows - height), random.integers(left, 0, columns - width)
            y, x = np.arange(rows), np.arange(columns)
            inside = ((y >= first[:, None]) & (y < (first + height)[:, None]))[:, :, None]
            inside = inside & ((x >= second[:, None]) & (x < (second + width)[:, None]))[:, None]
            more = (inside & ~mask).sum((1, 2))
            mask |= inside & (fits & (more > 0) & (more <= rest))[:, None, None]
        return {"mask": mask}
