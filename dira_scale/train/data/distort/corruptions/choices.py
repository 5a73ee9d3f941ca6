"""Random choices about a view that its method needs: how the view is turned, and where its patches are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import ArgumentError, AtLeast, check_fields
from dira_scale.train.data import random
from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.distort.corruptions.draws import Params, PerAxis, per_axis
from dira_scale.train.data.geometry.orientation import quarter_turns, turned
from dira_scale.train.data.views.parts import ViewPart

GRID = 3  # patches on each axis: the middle one and its neighbours


@dataclass(frozen=True)
class Turn(ViewPart):
    """The view is turned by one of ``orientation.quarter_turns``: of images 4, of volumes 10 (``methods.rotation``), or
    by one of 8, ``released``: none to 3 quarters in the plane of its last axes, and the same mirrored along the first
    of these, but for none, which is there twice (DiRA's authors' 3D script). Its sides must be equal.

    Parameters: ``turn`` int64 [b], its number.
    """

    turns: Literal["quarters", "released"] = "quarters"

    def count(self, dimensions: int) -> int:
        """Return the number of turns."""
        return 8 if self.turns == "released" else len(quarter_turns(dimensions))

    def numbers(self, size: Sequence[int]) -> int:
        return 1

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        return {"turn": random.integers(u[:, 0], 0, self.count(len(size)) - 1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        turn = params["turn"]
        if self.turns == "quarters":
            return turned(x, turn)
        x = turned(x, turn % 4)  # the first of all turns are in the plane of the last axes
        return torch.where(per_sample(turn, x) > 4, x.flip(-2), x)


@dataclass(frozen=True)
class PatchPair:
    """The middle patch of a grid of 3 on each axis and one of its neighbours (``methods.relative_position``).

    ``side``: pixels or voxels of a patch's side; or its sides, an entry for each axis. ``gap``: between patches.
    ``jitter``: each patch starts up to so many later on each axis. The grid is in the middle of the view.

    The view stays as it is, and its method cuts them.

    Parameters: ``neighbour`` int64 [b], from 0 to 7 or 25, row by row without the middle; ``corners`` int64 [b, 2, n],
    where the middle patch and the neighbour start.
    """

    side: PerAxis = 64
    gap: Annotated[int, AtLeast(0)] = 0
    jitter: Annotated[int, AtLeast(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.jitter > self.gap:
            raise ArgumentError("jitter", self.jitter, f"at most the gap, {self.gap}, so that patches do not overlap")

    def numbers(self, size: Sequence[int]) -> int:
        sides = self.sides(len(size))
        if len(sides) != len(size):
            raise ArgumentError("side", self.side, f"one number, or one for each of {len(size)} axes")
        if any(self._extent(side) > n for side, n in zip(sides, size, strict=True)):
            shown, needed = (" x ".join(map(str, each)) for each in (size, map(self._extent, sides)))
            expected = f"less, or larger views: with gap and jitter {GRID} patches on each axis take {needed}"
            raise ArgumentError("side", self.side, f"{expected}, and a view has {shown}")
        return 1 + 2 * len(size)

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        n, sides = len(size), np.array(self.sides(len(size)))
        middle = GRID**n // 2
        neighbour = random.integers(u[:, 0], 0, GRID**n - 2)
        cells = np.stack((np.full_like(neighbour, middle), neighbour + (neighbour >= middle)), 1)
        rows = np.stack(np.unravel_index(cells, (GRID,) * n), -1)
        first = (np.array(size) - [self._extent(side) for side in sides]) // 2
        later = random.integers(u[:, 1:].reshape(-1, 2, n), 0, self.jitter)
        return {"neighbour": neighbour, "corners": first + rows * (sides + self.gap) + later}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        return x

    def sides(self, dimensions: int) -> tuple[int, ...]:
        return per_axis(self.side, dimensions)

    def _extent(self, side: int) -> int:
        """Return how long the whole grid is on an axis, in pixels or voxels."""
        return GRID * side + (GRID - 1) * self.gap + self.jitter
