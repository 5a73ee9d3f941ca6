"""Path lengths of X-rays through ellipsoids and swept tubes, in closed form on the detector's grid."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.cxr.view import Map, View

STEP = 0.75  # detector pixels between samples of a tube


def ellipsoid(
    view: View, centre: Sequence[float], axes: Sequence[float], angle: float = 0.0, out: Map | None = None
) -> Map:
    """Thickness (mm) of an ellipsoid with semi-axes (x, y, z), turned by `angle` degrees in the picture's plane.

    A line along z cuts (p-c)' A (p-c) = 1 in a chord 2/sqrt(A33) * sqrt(1 - d' S d), where S is the Schur complement
    of A33 and d the distance in the plane. With `out`, the union (the larger chord) is written into it.
    """
    out = np.zeros((view.size, view.size), np.float32) if out is None else out
    row, column, scale = (float(v) for v in view.project(np.array(centre)))
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turn = view.rotation @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    a = (turn / np.square(axes)) @ turn.T
    schur = (a[:2, :2] - np.outer(a[:2, 2], a[2, :2]) / a[2, 2]) / scale**2
    reach_x, reach_y = np.sqrt(np.diag(np.linalg.inv(schur)))
    (top, bottom), (left, right) = (
        np.clip((int(middle - reach), int(middle + reach) + 2), 0, view.size)
        for middle, reach in ((row, reach_y), (column, reach_x))
    )
    dy = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(row)
    dx = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(column)
    (xx, xy), (_, yy) = schur.astype(np.float32)
    inside = 1 - xx * dx * dx - yy * dy * dy - (2 * xy * dy) * dx
    window = out[top:bottom, left:right]
    np.maximum(window, np.float32(2 / np.sqrt(a[2, 2])) * np.sqrt(np.maximum(inside, 0)), out=window)
    return out


class TubeLayer:
    """A layer of swept tubes whose union is taken (overlaps inside one layer do not add up)."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._pixels: list[NDArray[np.intp]] = []
        self._chords: list[Map] = []

    def add(self, points: NDArray, radius: NDArray, flat: float = 1.0, core: float = 1.0, wall: float = 0.7) -> None:
        """Add T tubes through points [T, M, 3] with radius [T, M] (mm).

        flat: depth over height of the cross-section. core: density of the marrow (within `wall` of the radius)
        relative to the shell's. A tube that runs along the beam shows a longer chord.
        """
        row, column, scale = self.view.project(points)
        segments = points.shape[1] - 1
        longest = float(np.hypot(np.diff(row), np.diff(column)).max()) * segments
        at = np.linspace(0, segments, int(longest / STEP) + 3)
        low = np.minimum(at.astype(np.intp), segments - 1)
        part = (at - low).astype(np.float32)
        knots = np.stack([row, column, points @ self.view.rotation[2] * scale, radius * scale, radius])
        knots = knots.astype(np.float32)
        row, column, depth, width, radius = knots[..., low] * (1 - part) + knots[..., low + 1] * part
        down, right, away = np.gradient(np.stack([row, column, depth]), axis=-1)
        step = np.hypot(down, right) + np.float32(1e-6)
        longer = np.minimum(np.sqrt(1 + np.square(away / step)), 3)  # 1 / sin(angle to the beam)
        chord = radius * np.float32(2 * flat) * longer * np.minimum(1, 2 * width)  # a thin one covers part
        across = int(2 * width.max() / STEP) + 3
        n = np.linspace(-1, 1, across, dtype=np.float32) * np.float32(1 - 1 / across)
        marrow = np.float32((1 - core) * wall) * np.sqrt(np.maximum(1 - np.square(n / np.float32(wall)), 0))
        side = self.view.size + 2  # the canvas has a margin of a pixel, where all that lies outside goes
        rows, columns = (
            np.clip(middle[..., None] + (reach / step)[..., None] * n + np.float32(1.5), 0, side - 1).astype(np.int32)
            for middle, reach in ((row, width * right), (column, -width * down))
        )
        self._pixels.append((rows * side + columns).ravel())
        self._chords.append((chord[..., None] * (np.sqrt(1 - n * n) - marrow)).ravel())

    def thickness(self) -> Map:
        """The layer's map [size, size] in mm: where samples meet in a pixel, their mean weighted by themselves."""
        pixels, chords, side = np.concatenate(self._pixels), np.concatenate(self._chords), self.view.size + 2
        total, squares = (np.bincount(pixels, weight, side * side) for weight in (chords, chords * chords))
        return (squares / np.maximum(total, 1e-9)).astype(np.float32).reshape(side, side)[1:-1, 1:-1]
