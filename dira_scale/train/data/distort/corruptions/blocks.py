"""Blocks of a view that change places, are turned or cropped: a jigsaw puzzle (Noroozi and Favaro, ECCV 2016), Rubik's
cube (Zhuang et al., MICCAI 2019; Tao et al., MICCAI 2020), predictive coding of patches (Taleb et al., NeurIPS 2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import factorial, prod
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.base.arguments import Above, ArgumentError, AtLeast
from dira_scale.train.data import random
from dira_scale.train.data.batch import per_sample
from dira_scale.train.data.distort.corruptions.draws import Params, PerAxis, per_axis
from dira_scale.train.data.geometry.blocks import (
    cut,
    distant_permutations,
    exchanged,
    joined,
    read_permutations,
    window,
)
from dira_scale.train.data.geometry.orientation import quarter_turns
from dira_scale.train.data.views.parts import Chance, ViewPart

PER_AXIS = 2  # blocks that change places: more have too many permutations to choose from


@dataclass(frozen=True)
class ShuffleBlocks(ViewPart):
    """A view is cut in half along each axis, and the blocks change places.

    ``permutations``: from which one is drawn, of ``geometry.blocks.distant_permutations``, of which the first leaves
    all where they are, or of a ``file`` of so many (``geometry.blocks.read_permutations``).
    ``margin``: pixels or voxels that are zeroed at every face of a block, so that edges do not go on from one into the
    next. It is the same on all faces: were it wider inside, it would show where a block comes from.

    Parameters: ``order`` int64 [b], its number; ``places`` int64 [b, n], which block is seen at each place.
    """

    permutations: Annotated[int, AtLeast(2)] = 1000
    margin: Annotated[int, AtLeast(0)] = 0
    file: str | None = None

    def numbers(self, size: Sequence[int]) -> int:
        blocks = PER_AXIS ** len(size)
        if self.permutations > (possible := factorial(blocks)):
            raise ArgumentError("permutations", self.permutations, f"at most {possible:,}, those of {blocks} blocks")
        if any(side % PER_AXIS for side in size):
            raise ValueError(f"ShuffleBlocks halves the sides of a view, and not all of {_shown(size)} are even")
        if 2 * self.margin >= (side := min(size) // PER_AXIS):
            raise ArgumentError("margin", self.margin, f"less than half of a block's side, which is {side}")
        self.content(len(size))
        return 1

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        order = random.integers(u[:, 0], 0, self.permutations - 1)
        return {"order": order, "places": self._orders(PER_AXIS ** len(size))[order]}

    def content(self, dimensions: int) -> str:
        """A hash of the permutations of ``file``; empty without one."""
        return sha256(self._orders(PER_AXIS**dimensions).tobytes()).hexdigest() if self.file else ""

    def _orders(self, blocks: int) -> np.ndarray:
        if self.file is None:
            return distant_permutations(blocks, self.permutations)
        return read_permutations(self.file, blocks, self.permutations)

    def apply(self, x: Tensor, params: Params) -> Tensor:
        parts = (PER_AXIS,) * (x.dim() - 2)
        blocks = exchanged(cut(x, parts), params["places"])
        for axis in range(3, blocks.dim()) if self.margin else ():
            inner = torch.arange(blocks.shape[axis], device=x.device)
            inner = (inner >= self.margin) & (inner < blocks.shape[axis] - self.margin)
            blocks = blocks * inner.view(-1, *(1,) * (blocks.dim() - axis - 1))
        return joined(blocks, parts)


@dataclass(frozen=True)
class BlockGrid(ViewPart):
    """``blocks``, a number for all axes or one for each, that a view is cut into."""

    blocks: PerAxis

    def counts(self, dimensions: int) -> tuple[int, ...]:
        return per_axis(self.blocks, dimensions)

    def sides(self, size: Sequence[int]) -> list[int]:
        """Return a block's sides. Raises ArgumentError if a view of ``size`` cannot be cut into equal blocks."""
        counts = self.counts(len(size))
        if len(counts) != len(size) or any(side % count for side, count in zip(size, counts, strict=True)):
            raise ArgumentError("blocks", self.blocks, f"numbers that divide the sides of a view of {_shown(size)}")
        return [side // count for side, count in zip(size, counts, strict=True)]


@dataclass(frozen=True)
class TurnBlocks(BlockGrid):
    """A view is cut into ``blocks``, a number for all axes or one for each, and each is turned where it is.

    ``turns``: ``half``: none or by 180 degrees, of volumes about one of three axes; ``quarter``: one of
    ``orientation.quarter_turns``, for which blocks need equal sides. Each block has each turn, or none, as often.

    Parameters: ``turn`` int64 [b, n], 0 = none.
    """

    blocks: PerAxis = 2
    turns: Literal["half", "quarter"] = "half"

    def numbers(self, size: Sequence[int]) -> int:
        sides = self.sides(size)
        if self.turns == "quarter" and len(set(sides)) > 1:
            expected = f"half, or as many blocks on each axis as make them cubes: they have {_shown(sides)}"
            raise ArgumentError("turns", self.turns, expected)
        return prod(self.counts(len(size)))

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        return {"turn": random.integers(u, 0, len(self._each(len(size))) - 1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        counts, turn = self.counts(x.dim() - 2), params["turn"].flatten()
        blocks = cut(x, counts).flatten(0, 1)
        result, number = blocks, per_sample(turn, blocks)
        for each, (quarters, plane) in enumerate(self._each(x.dim() - 2)):
            result = torch.where(number == each, blocks.rot90(quarters, plane), result) if quarters else result
        return joined(result.unflatten(0, params["turn"].shape), counts)

    def _each(self, dimensions: int) -> list[tuple[int, tuple[int, int]]]:
        """Return the quarters and the plane of each turn, none first."""
        return [turn for turn in quarter_turns(dimensions) if self.turns == "quarter" or turn[0] % 2 == 0]


@dataclass(frozen=True)
class CropBlocks(BlockGrid):
    """A view is cut into ``blocks``, a number for all axes or one for each, for a method that encodes each alone
    (``methods.cpc``): each is mirrored along the last axis with probability ``flip``, and all but a window of the
    share ``keep`` of its sides is zeroed, wherever it lies; the window is moved to the block's middle.

    Parameters: ``flip`` bool [b, n]; ``corner`` int64 [b, n, axes], where the windows start.
    """

    version: ClassVar[int] = 3  # of views with it (``ViewSpec.version``): it mirrored the first axis before
    blocks: PerAxis = 4
    keep: Annotated[float, Above(0, 1)] = 0.875
    flip: Chance = 0.5

    def numbers(self, size: Sequence[int]) -> int:
        if min(self._window(size)) < 1:
            expected = f"a share that leaves a pixel of blocks of {_shown(self.sides(size))}"
            raise ArgumentError("keep", self.keep, expected)
        return prod(self.counts(len(size))) * (1 + len(size))

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        u = u.reshape(len(u), -1, 1 + len(size))
        room = [side - kept for side, kept in zip(self.sides(size), self._window(size), strict=True)]
        corners = [random.integers(u[..., 1 + axis], 0, most) for axis, most in enumerate(room)]
        return {"flip": u[..., 0] < self.flip, "corner": np.stack(corners, -1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        counts, kept = self.counts(x.dim() - 2), self._window(x.shape[2:])
        blocks = cut(x, counts).flatten(0, 1)
        blocks = torch.where(per_sample(params["flip"].flatten(), blocks), blocks.flip(-1), blocks)
        inner = window(blocks, params["corner"].flatten(0, 1), kept)
        edges = [(side - n) // 2 for side, n in zip(blocks.shape[2:], kept, strict=True)]
        padding = [(before, side - n - before) for before, side, n in zip(edges, blocks.shape[2:], kept, strict=True)]
        padded = F.pad(inner, [edge for pair in padding[::-1] for edge in pair])
        return joined(padded.unflatten(0, params["flip"].shape), counts)

    def _window(self, size: Sequence[int]) -> list[int]:
        return [int(side * self.keep) for side in self.sides(size)]


def _shown(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
