"""Draw the patches of an image's view that are cut out, kept alone or swapped."""

from typing import NamedTuple

import numpy as np

from dira_scale.train.data import random
from dira_scale.train.data.views.parts import CUTOUT, INVERSE_CUTOUT, SHUFFLE, Cutout, InverseCutout, Shuffle, scaled


class Patches(NamedTuple):
    """One of three for a view with this ``side``; patches are ``border`` (in 224 pixels) away from its edges."""

    cutout: Cutout
    inverse_cutout: InverseCutout
    shuffle: Shuffle
    side: int
    border: int

    @property
    def most(self) -> int:
        return max(self.cutout.boxes, self.inverse_cutout.boxes, self.shuffle.swaps)

    @property
    def numbers(self) -> int:
        return 1 + 6 * self.most

    def pixels(self, length: float) -> int:
        """A ``length`` in a 224-pixel view, in whole pixels of this one."""
        return round(scaled(length, self.side))

    def draw(self, u: np.ndarray) -> dict[str, np.ndarray]:
        """Return branch, boxes, their number, and swaps, as in ``Distortion``, by ``u`` [b, numbers]. A sample has one
        branch, so the branches share random numbers."""
        limits = np.cumsum((self.cutout.p, self.inverse_cutout.p, self.shuffle.p))
        branch = np.searchsorted(limits, u[:, 0], side="right")
        u = u[:, 1:].reshape(len(u), self.most, 6)
        boxes, number = np.zeros((*u.shape[:2], 4), np.int16), np.zeros(len(u), np.uint8)
        swaps = np.zeros(u.shape, np.int16)

        cut, kept, shuffled = (np.flatnonzero(branch == kind) for kind in (CUTOUT, INVERSE_CUTOUT, SHUFFLE))
        low, high = map(self.pixels, self.cutout.side)
        sides = random.integers(u[cut, :, :2], max(1, low), high)
        boxes[cut], number[cut] = self._boxes(u[cut], sides, self.cutout.boxes, self.cutout.stop)
        sides = self.side - random.integers(u[kept, :, :2], *map(self.pixels, self.inverse_cutout.margin))
        boxes[kept], number[kept] = self._boxes(u[kept], sides, self.inverse_cutout.boxes, self.inverse_cutout.stop)

        u = u[shuffled, : self.shuffle.swaps]
        low, high = map(self.pixels, self.shuffle.side)
        sides = random.integers(u[..., :2], max(1, low), high)
        swaps[shuffled, : self.shuffle.swaps] = np.concatenate(
            (sides, self._starts(u[..., 2:4], sides), self._starts(u[..., 4:], sides)), -1
        )
        return {"branch": branch.astype(np.uint8), "boxes": boxes, "n_boxes": number, "swaps": swaps}

    def _boxes(self, u: np.ndarray, sides: np.ndarray, most: int, stop: float) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [b, k, 4] with ``sides`` [b, k, 2], 0 beyond their number [b]: up to the first u below ``stop``."""
        stops = u[:, :most, 4] < stop
        number = np.where(stops.any(1), stops.argmax(1) + 1, most)
        used = np.arange(u.shape[1]) < number[:, None]
        return np.concatenate((self._starts(u[..., 2:4], sides), sides), -1) * used[..., None], number

    def _starts(self, u: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Draw where patches with ``sides`` [..., 2] start."""
        border = self.pixels(self.border)
        return random.integers(u, border, self.side - sides - border)
