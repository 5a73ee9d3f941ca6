"""Masks in blocks: what a masked autoencoder does not see (He et al., CVPR 2022, sec. 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import ArgumentError, Within
from dira_scale.train.data.distort.corruptions.draws import PerAxis, per_axis
from dira_scale.train.data.views.parts import ViewPart


@dataclass(frozen=True)
class BlockMask(ViewPart):
    """Hide exactly ``share`` of a view's blocks, all equally likely, by ``fill``.

    ``block``: pixels or voxels of a block's side; or its sides, an entry for each axis.

    Parameters: ``mask`` bool [b, *blocks], true where hidden.
    """

    block: PerAxis = 16
    share: Annotated[float, Within(0, 1)] = 0.6
    fill: float = 0.0

    def numbers(self, size: Sequence[int]) -> int:
        return int(np.prod(self.blocks(size)))

    def draw(self, u: np.ndarray, size: Sequence[int]) -> dict[str, np.ndarray]:
        hidden = round(self.share * u.shape[1])
        order = u.argsort(1, kind="stable")
        mask = np.zeros(u.shape, bool)
        np.put_along_axis(mask, order[:, :hidden], True, 1)
        return {"mask": mask.reshape(len(u), *self.blocks(size))}

    def apply(self, x: Tensor, params: Mapping[str, Tensor]) -> Tensor:
        return x.masked_fill(spread(params["mask"], x.shape[2:])[:, None], self.fill)

    def blocks(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the number of blocks on each axis.

        Raises ArgumentError if a view of ``size`` does not divide into them, or they would all be hidden, or none.
        """
        sides = per_axis(self.block, len(size))
        if len(sides) != len(size) or any(n % side for n, side in zip(size, sides, strict=True)):
            raise ArgumentError("block", self.block, f"sides that divide a view of {' x '.join(map(str, size))}")
        blocks = tuple(n // side for n, side in zip(size, sides, strict=True))
        if not 0 < round(self.share * int(np.prod(blocks))) < np.prod(blocks):
            raise ArgumentError("share", self.share, f"a share that hides some of {np.prod(blocks)} blocks, not all")
        return blocks


def spread(mask: Tensor, size: Sequence[int]) -> Tensor:
    """A ``mask`` of blocks [b, *blocks] for each pixel or voxel of ``size``: [b, *size]."""
    for axis, n in enumerate(size, 1):
        mask = torch.repeat_interleave(mask, n // mask.shape[axis], axis)
    return mask
