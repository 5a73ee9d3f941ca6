"""Warps of views: by an elastic field, a distorted grid, or a lens (albumentations' three, one at a time).

The fields themselves are computed where the views are distorted (``distort.warp``); drawn here is what they depend on.
"""

from typing import NamedTuple

import numpy as np

from dira_scale.data import random
from dira_scale.data.views.spec import ViewSpec

UNWARPED, ELASTIC, GRID, OPTICAL = range(4)
CELLS = 5  # of the grid, on each axis
NODES = CELLS + 2  # with the rest of an image that does not divide into cells, and both ends
NUMBERS = 1 + 2 + 6 + 2 * CELLS + 1  # random ones that a sample takes


class Warps(NamedTuple):
    """The warps of b images: the columns of ``Distortion.warp``, in this order.

    Attributes:
        kind: [b, 1], ``UNWARPED``, ``ELASTIC``, ``GRID`` or ``OPTICAL``.
        noise: [b, 2], of ``ELASTIC``: the halves of a 48-bit key, whole numbers below 2^24.
        affine: [b, 6], of ``ELASTIC``: a pixel (x, y) shows what lies at (x, y, 1) times this matrix [3, 2].
        nodes: [b, 14], of ``GRID``: which x, then y, the edges of its cells show.
        lens: [b, 1], of ``OPTICAL``: the coefficient of its second and fourth power.
    """

    kind: np.ndarray
    noise: np.ndarray
    affine: np.ndarray
    nodes: np.ndarray
    lens: np.ndarray


COLUMNS = (1, 2, 6, 2 * NODES, 1)  # how many each has


def draw(spec: ViewSpec, u: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Float32 [b, 24], by ``u`` [b, NUMBERS] and ``key`` [b, 2], uniform in [0, 1)."""
    warp, size = spec.warp, spec.sides[-1]
    kind = np.where(u[:, 0] < warp.p, 1 + (u[:, 0] / warp.p * 3).astype(int).clip(0, 2), UNWARPED)
    affine, cells = u[:, 1:7].reshape(-1, 3, 2), u[:, 7 : 7 + 2 * CELLS].reshape(-1, 2, CELLS)
    warps = Warps(
        kind[:, None],
        np.floor(key * 2**24),
        _affine(size, random.between(affine, -1, 1) * spec.scaled(warp.affine)).reshape(-1, 6),
        _nodes(size, random.between(cells, 1 - warp.grid, 1 + warp.grid)).reshape(-1, 2 * NODES),
        random.between(u[:, -1:], -warp.optical, warp.optical),
    )
    return np.concatenate(warps, 1).astype(np.float32)


def _affine(size: int, moved: np.ndarray) -> np.ndarray:
    """The matrices [b, 3, 2] that take three corners, ``moved`` by so many pixels [b, 3, 2], back."""
    near, far = size // 2 - size // 3, size // 2 + size // 3
    corners = np.array([(far, far), (far, near), (near, near)], float)
    homogeneous = np.concatenate([corners + moved, np.ones((len(moved), 3, 1))], 2)
    return np.linalg.solve(homogeneous, np.broadcast_to(corners, moved.shape))


def _nodes(size: int, stretched: np.ndarray) -> np.ndarray:
    """Place the edges of ``stretched`` [b, 2, CELLS] cells: [b, 2, NODES], the last at the image's end."""
    ends = np.cumsum(stretched * (size // CELLS), 2)
    return np.concatenate([np.zeros_like(ends[..., :1]), ends, np.full_like(ends[..., :1], size)], 2)
