"""A few neighbouring slices to paint the anatomy on: small enough for a processor's cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dira_scale.archive.phantom.ct.solids import Array
from dira_scale.archive.phantom.ct.tubes import Tubes

GridLines = tuple[NDArray, NDArray, NDArray]  # coordinates (mm) of slices, rows and columns
ARRAYS = ("hu", "organ", "finding", "bump", "patchy")
FAR = np.float32(1000)  # mm: beyond anything painted
FAINTEST = 0.12  # share of a voxel below which a tube is skipped


@dataclass
class Slab:
    """n slices of Y x X voxels, all arrays [n, Y, X] float32."""

    lines: GridLines
    edge: float  # width of a blurred surface in mm
    hu: Array
    organ: Array  # share of the voxel that is lung or liver, 0 ... 1
    finding: Array  # share that is nodule or lesion
    bump: Array  # a coarse random field of the trunk
    patchy: Array  # a fine one

    @cached_property
    def places(self) -> tuple[Array, Array, Array]:
        """Each voxel's (x, y, z), as arrays that broadcast."""
        z, y, x = (line.astype(np.float32) for line in self.lines)
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def part(self, low: ArrayLike, high: ArrayLike) -> Slab | None:
        """Views of the block between two corners (x, y, z); None if it holds no voxel."""
        ends = np.stack([low, high], 1)[::-1]
        where = tuple(slice(*np.searchsorted(*two)) for two in zip(self.lines, ends, strict=True))
        lines = tuple(line[cut] for line, cut in zip(self.lines, where, strict=True))
        if not all(map(len, lines)):
            return None
        return replace(self, lines=lines, **{name: getattr(self, name)[where] for name in ARRAYS})  # type: ignore[arg-type]

    def cover(self, distance: Array) -> Array:
        """The share of each voxel inside the surface, 0 ... 1."""
        return np.clip(np.float32(0.5) - distance * np.float32(1 / self.edge), 0, 1)

    def paint(self, distance: Array, value: Array | float) -> None:
        """Set ``value`` HU inside the surface."""
        self.blend(self.cover(distance), value)

    def blend(self, share: Array, value: Array | float) -> None:
        """Mix in ``share`` of ``value`` HU."""
        self.hu += share * (np.float32(value) - self.hu)

    def distance(self, tubes: Tubes, reach: float) -> Array:
        """Distance to tubes up to ``reach`` mm, FAR beyond.

        A tube thinner than the edge keeps its share of the voxel: its radius counts as 2 r - edge / 2, so that the
        cover at its axis is 2 r / edge.
        """
        z, y, x = self.lines
        out = np.full(self.hu.shape, FAR, np.float32)
        thick = tubes.radii.max(1, keepdims=True)
        low, high = tubes.ends.min(1) - thick - reach, tubes.ends.max(1) + thick + reach
        bounds = np.stack([np.searchsorted(line, (low[:, i], high[:, i])) for line, i in ((z, 2), (y, 1), (x, 0))])
        visible = (bounds[:, 0] < bounds[:, 1]).all(0) & (2 * thick[:, 0] > FAINTEST * self.edge)
        px, py, pz = self.places
        for i in np.flatnonzero(visible):
            (z0, z1), (y0, y1), (x0, x1) = bounds[:, :, i]
            start, end = tubes.ends[i].astype(np.float32)
            way = end - start
            gaps = px[..., x0:x1] - start[0], py[:, y0:y1] - start[1], pz[z0:z1] - start[2]
            along = sum(gap * step for gap, step in zip(gaps, way, strict=True)) / (way @ way + np.float32(1e-6))
            t = np.clip(along, 0, 1)
            away = np.sqrt(sum(np.square(gap - t * step) for gap, step in zip(gaps, way, strict=True)))
            first, last = np.minimum(tubes.radii[i], 2 * tubes.radii[i] - self.edge / 2).astype(np.float32)
            window = out[z0:z1, y0:y1, x0:x1]
            np.minimum(window, away - first - t * (last - first), out=window)
        return out
