"""Blocks of a view that change places, are turned or cropped: a jigsaw puzzle (Noroozi and Favaro, ECCV 2016), Rubik's
cube (Zhuang et al., MICCAI 2019; Tao et al., MICCAI 2020), predictive coding of patches (Taleb et al., NeurIPS 2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial, prod
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data import random
from dira_scale.data.batch import per_sample
from dira_scale.data.distort.corruptions.draws import Params, share
from dira_scale.data.geometry.blocks import cut, distant_permutations, exchanged, joined, window
from dira_scale.data.geometry.orientation import quarter_turns
from dira_scale.errors import UserError, nearest

PER_AXIS = 2  # blocks that change places: more have too many permutations to choose from
TURNS = ("half", "quarter")


@dataclass(frozen=True)
class ShuffleBlocks:
    """A view is cut in half along each axis, and the blocks change places.

    ``permutations``: from which one is drawn, of ``geometry.blocks.distant_permutations``; the first leaves all where
    they are.
    ``margin``: pixels or voxels that are zeroed at every face of a block, so that edges do not go on from one into the
    next. It is the same on all faces: were it wider inside, it would show where a block comes from.

    Parameters: ``order`` int64 [b], its number; ``places`` int64 [b, n], which block is seen at each place.
    """

    permutations: int = 1000
    margin: int = 0

    def numbers(self, size: Sequence[int]) -> int:
        """See ``Corruption``. Raises UserError for views that cannot be halved, or more permutations than there are."""
        possible = factorial(PER_AXIS ** len(size))
        if not 2 <= self.permutations <= possible:
            raise UserError(f"permutations={self.permutations}: expected a number from 2 to {possible:,}, those of "
                            f"{PER_AXIS ** len(size)} blocks")  # fmt: skip
        check_blocks(size, (PER_AXIS,) * len(size))
        if not 0 <= 2 * self.margin < min(size) // PER_AXIS:
            raise UserError(f"margin={self.margin}: expected at least 0 and less than half of a block's side, "
                            f"{min(size) // PER_AXIS}")  # fmt: skip
        return 1

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``Corruption``."""
        order = random.integers(u[:, 0], 0, self.permutations - 1)
        return {"order": order, "places": distant_permutations(PER_AXIS ** len(size), self.permutations)[order]}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See ``Corruption``."""
        parts = (PER_AXIS,) * (x.dim() - 2)
        blocks = exchanged(cut(x, parts), params["places"])
        for axis in range(3, blocks.dim()) if self.margin else ():
            inner = torch.arange(blocks.shape[axis], device=x.device)
            inner = (inner >= self.margin) & (inner < blocks.shape[axis] - self.margin)
            blocks = blocks * inner.view(-1, *(1,) * (blocks.dim() - axis - 1))
        return joined(blocks, parts)


@dataclass(frozen=True)
class Cut:
    """``blocks``, a number for all axes or one for each, that a view is cut into."""

    blocks: int | tuple[int, ...]

    def counts(self, dimensions: int) -> tuple[int, ...]:
        """Return how many blocks there are on each axis."""
        return (self.blocks,) * dimensions if isinstance(self.blocks, int) else tuple(self.blocks)


@dataclass(frozen=True)
class TurnBlocks(Cut):
    """A view is cut into ``blocks``, a number for all axes or one for each, and each is turned where it is.

    ``turns``: ``half``: none or by 180 degrees, of volumes about one of three axes; ``quarter``: one of
    ``orientation.quarter_turns``, for which blocks need equal sides. Each block has each turn, or none, as often.

    Parameters: ``turn`` int64 [b, n], 0 = none.
    """

    blocks: int | tuple[int, ...] = 2
    turns: str = "half"

    def numbers(self, size: Sequence[int]) -> int:
        """See ``Corruption``. Raises UserError for views that cannot be cut so, or blocks that cannot be turned."""
        counts = self.counts(len(size))
        check_blocks(size, counts)
        if self.turns not in TURNS:
            raise UserError(f"turns={self.turns}: expected {' or '.join(TURNS)}{nearest(self.turns, TURNS)}")
        sides = [side // count for side, count in zip(size, counts, strict=True)]
        if self.turns == "quarter" and len(set(sides)) > 1:
            raise UserError(f"turns=quarter: blocks of {' x '.join(map(str, sides))} cannot be turned by 90 degrees; "
                            "use as many blocks on each axis as make them cubes, or turns=half")  # fmt: skip
        return prod(counts)

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``Corruption``."""
        return {"turn": random.integers(u, 0, len(self._each(len(size))) - 1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See ``Corruption``."""
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
class CropBlocks(Cut):
    """A view is cut into ``blocks``, a number for all axes or one for each, for a method that encodes each alone
    (``methods.cpc``): each is mirrored along the last axis with probability ``flip``, and all but a window of the
    share ``keep`` of its sides is zeroed, wherever it lies; the window is moved to the block's middle.

    Parameters: ``flip`` bool [b, n]; ``corner`` int64 [b, n, axes], where the windows start.
    """

    version: ClassVar[int] = 3  # of views with it (``ViewSpec.version``): it mirrored the first axis before
    blocks: int | tuple[int, ...] = 4
    keep: float = 0.875
    flip: float = 0.5

    def numbers(self, size: Sequence[int]) -> int:
        """See ``Corruption``. Raises UserError for views that cannot be cut so, and shares that cannot be."""
        check_blocks(size, self.counts(len(size)))
        if not 0 < self.keep <= 1 or min(self._window(size)) < 1:
            raise UserError(f"keep={self.keep}: expected a share above 0, at most 1, that leaves a pixel of a block")
        share("flip", self.flip)
        return prod(self.counts(len(size))) * (1 + len(size))

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        """See ``Corruption``."""
        u = u.reshape(len(u), -1, 1 + len(size))
        sides = [side // count for side, count in zip(size, self.counts(len(size)), strict=True)]
        room = [side - kept for side, kept in zip(sides, self._window(size), strict=True)]
        corners = [random.integers(u[..., 1 + axis], 0, most) for axis, most in enumerate(room)]
        return {"flip": u[..., 0] < self.flip, "corner": np.stack(corners, -1)}

    def apply(self, x: Tensor, params: Params) -> Tensor:
        """See ``Corruption``."""
        counts, kept = self.counts(x.dim() - 2), self._window(x.shape[2:])
        blocks = cut(x, counts).flatten(0, 1)
        blocks = torch.where(per_sample(params["flip"].flatten(), blocks), blocks.flip(-1), blocks)
        inner = window(blocks, params["corner"].flatten(0, 1), kept)
        edges = [(side - n) // 2 for side, n in zip(blocks.shape[2:], kept, strict=True)]
        padding = [(before, side - n - before) for before, side, n in zip(edges, blocks.shape[2:], kept, strict=True)]
        padded = F.pad(inner, [edge for pair in padding[::-1] for edge in pair])
        return joined(padded.unflatten(0, params["flip"].shape), counts)

    def _window(self, size: Sequence[int]) -> list[int]:
        return [int(side // count * self.keep) for side, count in zip(size, self.counts(len(size)), strict=True)]


def check_blocks(size: Sequence[int], counts: Sequence[int]) -> None:
    """Raise UserError unless a view of ``size`` can be cut into so many blocks of equal size on each axis."""
    whole = len(counts) == len(size) and all(n > 0 and side % n == 0 for side, n in zip(size, counts, strict=True))
    if not whole:
        given, wanted = (" x ".join(map(str, each)) for each in (size, counts))
        raise UserError(f"a view of {given} cannot be cut into {wanted} equal blocks: use sides of data.size that are "
                        "multiples of the number of blocks")  # fmt: skip
