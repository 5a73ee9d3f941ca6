"""Draw the patches of a view that are cut out, kept alone or swapped, in any number of dimensions n."""

import numpy as np

from dira_scale.data import random
from dira_scale.data.views.spec import ViewSpec

CUTOUT, INVERSE_CUTOUT, SHUFFLE, NONE = range(4)  # a sample has one of them


def numbers(spec: ViewSpec) -> int:
    """Return the number of random numbers that a sample takes."""
    return 1 + 3 * spec.dimensions * _count(spec)


def draw(spec: ViewSpec, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Branch, boxes, their number, and swaps, as in ``draw.Distortion``, by ``u`` [b, numbers], uniform in [0, 1).

    A sample has one branch, so the branches share random numbers.
    """
    limits = np.cumsum((spec.cutout.p, spec.inverse_cutout.p, spec.shuffle.p))
    branch = np.searchsorted(limits, u[:, 0], side="right")
    n, u = spec.dimensions, u[:, 1:].reshape(len(u), _count(spec), 3 * spec.dimensions)
    boxes, number = np.zeros((*u.shape[:2], 2 * n), np.int16), np.zeros(len(u), np.uint8)
    swaps = np.zeros(u.shape, np.int16)

    cut, kept, shuffled = (np.flatnonzero(branch == kind) for kind in (CUTOUT, INVERSE_CUTOUT, SHUFFLE))
    low, high = map(spec.pixels, spec.cutout.side)
    sides = random.integers(u[cut, :, :n], max(1, low), high)
    boxes[cut], number[cut] = _boxes(spec, u[cut], sides, spec.cutout.boxes, spec.cutout.stop)
    sides = spec.sides - random.integers(u[kept, :, :n], *map(spec.pixels, spec.inverse_cutout.margin))
    boxes[kept], number[kept] = _boxes(spec, u[kept], sides, spec.inverse_cutout.boxes, spec.inverse_cutout.stop)

    u = u[shuffled, : spec.shuffle.swaps]
    low, high = map(spec.pixels, spec.shuffle.side)
    sides = random.integers(u[..., :n], max(1, low), high)
    starts = _start(spec, u[..., n : 2 * n], sides), _start(spec, u[..., 2 * n :], sides)
    swaps[shuffled, : spec.shuffle.swaps] = np.concatenate((sides, *starts), -1)
    return branch.astype(np.uint8), boxes, number, swaps


def _boxes(spec: ViewSpec, u: np.ndarray, sides: np.ndarray, most: int, stop: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [b, k, 2 n] with ``sides`` [b, k, n], 0 beyond their number [b]: up to the first u below ``stop``."""
    n = spec.dimensions
    stops = u[:, :most, 2 * n] < stop
    number = np.where(stops.any(1), stops.argmax(1) + 1, most)
    used = np.arange(u.shape[1]) < number[:, None]
    return np.concatenate((_start(spec, u[..., n : 2 * n], sides), sides), -1) * used[..., None], number


def _start(spec: ViewSpec, u: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Draw the starts [..., n] of patches with ``sides`` [..., n], ``border`` away from the edges."""
    border = spec.pixels(spec.border)
    return random.integers(u, border, spec.sides - sides - border)


def _count(spec: ViewSpec) -> int:
    return max(spec.cutout.boxes, spec.inverse_cutout.boxes, spec.shuffle.swaps)
