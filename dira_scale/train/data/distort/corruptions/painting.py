"""In-painting and out-painting (Models Genesis, sec. 2.2): boxes are filled, or everything but a few windows; and
patches that change places."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Within
from dira_scale.train.data import random
from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.distort.corruptions.draws import KEY, Params, Sometimes, field, key, pasted
from dira_scale.train.data.views.parts import Ascending, Chance


@dataclass(frozen=True)
class Inpaint(Sometimes):
    """With probability ``p``, fill up to ``boxes`` boxes, each in its turn with probability ``more`` of going on.

    ``side``: of a box on each axis, as shares of the view's, rounded down to whole voxels; all between are equally
    likely. ``fill``: ``noise`` (each voxel from [0, 1)), ``constant`` (each box a number from [0, 1)), or a number.
    ``border``: distance of boxes from the view's edges in voxels.

    Parameters: ``on`` bool [b], ``key`` int64 [b], ``count`` uint8 [b], ``boxes`` int16 [b, boxes, 2 n], ``values``
    float32 [b, boxes].
    """

    p: Chance = 1.0
    boxes: Annotated[int, Within(1, 255)] = 5
    more: Chance = 0.95
    side: Annotated[tuple[float, float], Ascending(Within(0, 1))] = (1 / 6, 1 / 3)
    fill: Literal["noise", "constant"] | Annotated[float, Within(0, 1)] = "noise"
    border: Annotated[int, AtLeast(0)] = 3
    least = 0  # boxes that are drawn in any case

    def numbers(self, size: Sequence[int]) -> int:
        for n in size:
            low, high = self._sides(n)
            if not 0 < low <= high or high + 2 * self.border > n:
                expected = f"boxes that fit into a side of {n} with a border of {self.border}"
                raise ArgumentError("side", self.side, f"{expected}: they have {low} to {high} voxels")
        return 1 + KEY + self.boxes * (2 + 2 * len(size))

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        n, sides = len(size), np.array(size)
        each = u[:, 1 + KEY :].reshape(len(u), self.boxes, 2 + 2 * n)
        low, high = np.array([self._sides(side) for side in size]).T
        extents = low + (each[..., 2 : 2 + n] * (high - low + 1)).astype(np.int64)
        starts = random.integers(each[..., 2 + n :], self.border, sides - extents - self.border)
        ends = each[..., 0] >= self.more
        ends[:, : self.least] = False
        count = np.where(ends.any(1), ends.argmax(1), self.boxes)
        return {
            "on": u[:, 0] < self.p,
            "key": key(u[:, 1 : 1 + KEY]),
            "count": count.astype(np.uint8),
            "boxes": np.concatenate((starts, extents), -1).astype(np.int16),
            "values": each[..., 1].astype(np.float32),
        }

    def _sides(self, n: int) -> tuple[int, int]:
        """The least and the largest of a box on an axis of ``n`` voxels."""
        low, high = (int(each * n + 1e-9) for each in self.side)
        return max(1, low), high

    def changed(self, x: Tensor, params: Params) -> Tensor:
        noise, result = self._noise(x, params), x.clone()
        for number in range(self.boxes):
            filling = self._filling(params["values"][:, number], noise, x)
            result = pasted(result, filling, self._box(params, number))
        return result

    def _noise(self, x: Tensor, params: Params) -> Tensor | None:
        return field(params["key"], x.shape[2:]) if self.fill == "noise" else None

    def _box(self, params: Params, number: int) -> Tensor:
        """int64 [b, 2 n]: the box of this ``number``, of no extent where there is none."""
        there = number < params["count"]
        return params["boxes"][:, number].long() * there[:, None]

    def _filling(self, values: Tensor, noise: Tensor | None, x: Tensor) -> Tensor:
        if noise is not None:
            return noise
        return values.view(-1, *(1,) * (x.dim() - 1)) if self.fill == "constant" else x.new_full((), float(self.fill))


@dataclass(frozen=True)
class Outpaint(Inpaint):
    """With probability ``p``, fill everything but a window, and up to ``boxes`` - 1 others in their turn.

    ``side``: by how much a window is shorter than the view on each axis, as shares of it. All else as ``Inpaint``;
    ``constant`` is one number for the sample.
    """

    side: Annotated[tuple[float, float], Ascending(Within(0, 1))] = (3 / 7, 4 / 7)

    least = 1

    def _sides(self, n: int) -> tuple[int, int]:
        low, high = super()._sides(n)
        return n - high, n - low

    def changed(self, x: Tensor, params: Params) -> Tensor:
        result = self._filling(params["values"][:, 0], self._noise(x, params), x).expand_as(x).clone()
        for number in range(self.boxes):
            result = pasted(result, x, self._box(params, number))
        return result


@dataclass(frozen=True)
class SwapPatches(Sometimes):
    """With probability ``p``, ``swaps`` pairs of equally large patches change places: context restoration (Chen et al.,
    MedIA 2019, sec. 3.1), and DiRA's patch shuffling in any number of dimensions.

    ``side``: of a patch on each axis, as shares of the view's, rounded down to whole voxels. Patches are anywhere; all
    are read from the view as it was, and where they overlap the last one counts.

    Parameters: ``on`` bool [b]; ``boxes`` int16 [b, swaps, 3 n]: where both patches start, and their sides.
    """

    p: Chance = 1.0
    swaps: Annotated[int, AtLeast(1)] = 10
    side: Annotated[tuple[float, float], Ascending(Above(0, 1))] = (0.1, 0.25)

    def numbers(self, size: Sequence[int]) -> int:
        return 1 + self.swaps * 3 * len(size)

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        each = u[:, 1:].reshape(len(u), self.swaps, 3, len(size))
        low, high = ([max(1, int(part * n + 1e-9)) for n in size] for part in self.side)
        sides = low + (each[:, :, 2] * (np.array(high) - low + 1)).astype(np.int64)
        starts = [random.integers(each[:, :, patch], 0, np.array(size) - sides) for patch in range(2)]
        return {"on": u[:, 0] < self.p, "boxes": np.concatenate((*starts, sides), -1).astype(np.int16)}

    def changed(self, x: Tensor, params: Params) -> Tensor:
        size = x.shape[2:]
        here = torch.arange(size.numel(), device=x.device).view(1, 1, *size)
        source = here.expand(len(x), -1, *size).clone()  # where each voxel is from
        strides = [size[axis + 1 :].numel() for axis in range(len(size))]
        for boxes in params["boxes"].long().unbind(1):
            first, second, sides = boxes.chunk(3, 1)
            by_axis = (second - first).unbind(1)
            further = torch.stack([by * stride for by, stride in zip(by_axis, strides, strict=True)]).sum(0)
            for start, by in ((first, further), (second, -further)):
                source = pasted(source, here + per_sample(by, source), torch.cat([start, sides], 1))
        return x.flatten(2).gather(2, source.flatten(2).expand(-1, x.shape[1], -1)).view(x.shape)
