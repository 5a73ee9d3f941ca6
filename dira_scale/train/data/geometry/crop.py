"""Crops and flips of many samples at once, in any number of dimensions n; ``plane`` and ``volume`` draw them."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from dira_scale.dataset.pixels.boxes import Crop
from dira_scale.train.data import random

FINE = 1024  # parts of a stored voxel: extents are whole numbers of them, so that boxes' sums and products are exact


@dataclass(frozen=True)
class Geometry:
    """The crops and flips that the loader applies to b images or volumes; can be sliced along b.

    Attributes:
        box: int32 [b, 2 n], in stored pixels: where a crop starts on each axis, then how far it extends: (y, x, h, w).
            float64 where extents are not whole (``ViewSpec.spacing``).
        flip: bool [b, n], along which axes the crop is mirrored.
        transposed: bool [b], whether its last two axes then change places; None: of no crop.
    """

    box: np.ndarray
    flip: np.ndarray
    transposed: np.ndarray | None = None

    def __getitem__(self, samples: slice) -> Self:
        transposed = None if self.transposed is None else self.transposed[samples]
        return type(self)(self.box[samples], self.flip[samples], transposed)

    def crop(self, i: int) -> Crop:
        transposed = self.transposed is not None and bool(self.transposed[i])
        return Crop(tuple(self.box[i].tolist()), tuple(self.flip[i].tolist()), transposed)


def placed(u: np.ndarray, sides: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Boxes int32 [b, 2 n] of these ``extents`` [b, n], uniformly within images of these ``sides`` [b, n]; u [b, n]."""
    return np.concatenate((random.integers(u, 0, sides - extents), extents), 1).astype(np.int32)


def in_stored(size: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Extents in stored voxels of boxes of a ``size``, with ``step`` stored voxels for each of its own: float64."""
    return np.rint(size * step * FINE) / FINE


def boxes(starts: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """[b, 2 n]: int32 of whole extents, else float64."""
    box = np.concatenate((starts, extents), 1)
    return box if extents.dtype.kind == "f" else box.astype(np.int32)
