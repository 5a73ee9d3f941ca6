"""Path lengths of X-rays through ellipsoids and swept tubes, in closed form on the detector's grid.

A volume becomes a 2D thickness map; no voxels are stored.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.cxr.view import Map, View

STEP = 0.75  # detector pixels between samples of a tube
BATCH = 256  # tubes with the same number of samples


def upsample(small: Map, size: int) -> Map:
    """Bilinear enlargement of a square map to [size, size], pixel centres aligned."""
    at = np.clip((np.arange(size) + 0.5) * (len(small) / size) - 0.5, 0, len(small) - 1).astype(np.float32)
    low = np.minimum(at.astype(np.intp), len(small) - 2)
    part = at - low.astype(np.float32)
    wide = small[:, low] * (1 - part) + small[:, low + 1] * part
    return wide[low] * (1 - part)[:, None] + wide[low + 1] * part[:, None]


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
    rows = slice(max(0, int(row - reach_y)), max(0, min(view.size, int(row + reach_y) + 2)))
    columns = slice(max(0, int(column - reach_x)), max(0, min(view.size, int(column + reach_x) + 2)))
    window = out[rows, columns]
    if window.size:
        dy = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(row)
        dx = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(column)
        xx, xy, yy = np.float32(schur[0, 0]), np.float32(2 * schur[0, 1]), np.float32(schur[1, 1])
        inside = 1 - xx * dx * dx - yy * dy * dy - (xy * dy) * dx
        chord = np.float32(2 / np.sqrt(a[2, 2])) * np.sqrt(np.maximum(inside, 0))
        np.maximum(window, chord, out=window)
    return out


def _slope(values: Map) -> Map:
    """Central differences along the second axis (twice the derivative), the ends as their neighbours."""
    slope = np.empty_like(values)
    slope[:, 1:-1] = values[:, 2:] - values[:, :-2]
    slope[:, 0], slope[:, -1] = slope[:, 1], slope[:, -2]
    return slope


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
        points, radius = np.asarray(points, float), np.asarray(radius, float)
        row, column, scale = self.view.project(points)
        lengths = np.hypot(np.diff(row), np.diff(column)).max(-1) * (points.shape[1] - 1)
        if len(points) > BATCH:  # tubes of like extent together: all of a batch get the longest one's samples
            for part in np.array_split(np.argsort(lengths * radius[:, 0]), -(-len(points) // BATCH)):
                self.add(points[part], radius[part], flat, core, wall)
            return
        samples = int(lengths.max() / STEP) + 3
        at = np.linspace(0, points.shape[1] - 1, samples)
        low = np.minimum(at.astype(np.intp), points.shape[1] - 2)
        part = at - low

        def fine(values: NDArray) -> Map:
            return (values[:, low] * (1 - part) + values[:, low + 1] * part).astype(np.float32)

        row, column, width, depth = (
            fine(row),
            fine(column),
            fine(radius * scale),
            fine((points * self.view.rotation[2]).sum(-1) * scale),
        )
        down, right = _slope(row), _slope(column)
        step = np.hypot(down, right) + np.float32(1e-6)
        longer = np.minimum(np.sqrt(1 + np.square(_slope(depth) / step)), 3.0)  # 1 / sin(angle to the beam)
        chord = fine(radius) * np.float32(2 * flat) * longer * np.minimum(1, 2 * width)  # a thin one covers part
        keep = np.flatnonzero(
            np.maximum(np.abs(row - self._middle), np.abs(column - self._middle)) < self._middle + width
        )
        across = int(2 * width.max() / STEP) + 3
        n = np.linspace(-1, 1, across, dtype=np.float32) * np.float32(1 - 1 / across)
        profile: NDArray = np.sqrt(1 - n * n)
        if core < 1:
            profile = profile - np.float32((1 - core) * wall) * np.sqrt(np.maximum(1 - np.square(n / wall), 0))
        r = self._round(row, width * (right / step), keep, n)
        c = self._round(column, width * (-down / step), keep, n)
        r *= self.view.size + 2  # the canvas has a margin of a pixel, where all that lies outside goes
        r += c
        self._pixels.append(r.ravel())
        self._chords.append((chord.ravel()[keep, None] * profile).ravel())

    @property
    def _middle(self) -> float:
        return self.view.size / 2

    def _round(self, centre: Map, reach: NDArray, keep: NDArray, n: Map) -> NDArray[np.intp]:
        at = reach.ravel()[keep, None] * n
        at += centre.ravel()[keep, None] + np.float32(1.5)  # the margin, and so that cutting off rounds
        return np.clip(at, 0, self.view.size + 1, out=at).astype(np.intp)

    def thickness(self) -> Map:
        """The layer's map [size, size] in mm: where samples meet in a pixel, their mean weighted by themselves."""
        pixels, chords = np.concatenate(self._pixels), np.concatenate(self._chords)
        side = self.view.size + 2
        canvas = np.zeros((side, side), np.float32)
        if len(pixels):
            first, last = int(pixels.min()) // side, int(pixels.max()) // side + 1  # the rows that are touched
            pixels -= first * side
            total = np.bincount(pixels, chords, (last - first) * side)
            squares = np.bincount(pixels, chords * chords, (last - first) * side)
            canvas[first:last] = (squares / np.maximum(total, 1e-9)).reshape(-1, side)
        return canvas[1:-1, 1:-1]
