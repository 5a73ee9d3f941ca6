"""Crops and flips of many samples at once, in any number of dimensions n."""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from dira_scale.data import random
from dira_scale.pixels.boxes import Crop


@dataclass(frozen=True)
class Geometry:
    """What the loader applies to b images or volumes; can be sliced along b.

    Attributes:
        box: int32 [b, 2 n], in stored pixels: where a crop starts on each axis, then how far it extends: (y, x, h, w).
        flip: bool [b, n], along which axes the crop is mirrored.
    """

    box: np.ndarray
    flip: np.ndarray

    def __getitem__(self, samples: slice) -> Self:
        return type(self)(self.box[samples], self.flip[samples])

    def crop(self, i: int) -> Crop:
        """That of sample ``i``."""
        return Crop(tuple(self.box[i].tolist()), tuple(self.flip[i].tolist()))


class CropRule(Protocol):
    """How crops are drawn: ``plane.PlaneCrop``, ``volume.VolumeCrop``."""

    @property
    def numbers(self) -> int:
        """How many random numbers a crop takes."""
        ...

    @property
    def axes(self) -> tuple[int, ...]:
        """Those that may be mirrored, counted from the last, which is -1."""
        ...

    @property
    def least(self) -> tuple[int, ...] | None:
        """The sides [n] that an image must have; None: any."""
        ...

    def draw(self, u: np.ndarray, sides: np.ndarray) -> Geometry:
        """The crops of images with ``sides`` int64 [b, n], by ``u`` [b, numbers], uniform in [0, 1)."""
        ...


def placed(u: np.ndarray, sides: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Boxes int32 [b, 2 n] of these ``extents`` [b, n], uniformly within images of these ``sides`` [b, n]; u [b, n]."""
    return np.concatenate((random.integers(u, 0, sides - extents), extents), 1).astype(np.int32)
