"""A few neighbouring slices to paint the anatomy on: small enough for a processor's cache."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dira_scale.archive.phantom.ct.solids import Array
from dira_scale.archive.phantom.ct.tubes import Tubes

GridLines = tuple[NDArray, NDArray, NDArray]  # coordinates (mm) of slices, rows and columns
ARRAYS = ("x", "y", "hu", "organ", "finding", "bump", "patchy", "grain")
FAR = np.float32(1000)  # mm: beyond anything painted
FAINTEST = 0.12  # share of a voxel below which a tube is skipped


@dataclass
class Slab:
    """n slices of Y x X voxels, all arrays [n, Y, X] float32 unless noted otherwise.

    Attributes:
        lines: coordinates of slices, rows and columns in the trunk's straight frame.
        x, y, z: each voxel's position in the drawn anatomy, which bends a little (`Trunk.bend`); z is [n, 1, 1].
        edge: width of a blurred surface in mm.
        hu: Hounsfield units.
        organ, finding: share of the voxel labelled organ (lung, liver) or finding (nodule, lesion), 0 ... 1.
        bump, patchy, grain: random fields of the trunk, from coarse to fine.
    """

    lines: GridLines
    x: Array
    y: Array
    z: Array
    edge: float
    hu: Array
    organ: Array
    finding: Array
    bump: Array
    patchy: Array
    grain: Array

    def part(
        self, low: tuple[float, float, float], high: tuple[float, float, float], margin: float = 14
    ) -> Slab | None:
        """Views of the block between two corners (x, y, z) plus a margin; None if it holds no voxel."""
        cut = []
        for axis, line in enumerate(self.lines):
            reach = margin if axis else 0.0  # slices do not bend
            first = int(np.searchsorted(line, low[2 - axis] - reach))
            last = int(np.searchsorted(line, high[2 - axis] + reach, side="right"))
            if first >= last:
                return None
            cut.append(slice(first, last))
        where = tuple(cut)
        lines = tuple(line[c] for line, c in zip(self.lines, where, strict=True))
        views = {name: getattr(self, name)[where] for name in ARRAYS}
        return replace(self, lines=lines, z=self.z[where[0]], **views)  # type: ignore[arg-type]

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
        """Distance to tubes in the straight frame up to ``reach`` mm, FAR beyond.

        A tube thinner than the edge keeps its share of the voxel: its radius counts as 2 r - edge / 2, so that the
        cover at its axis is 2 r / edge.
        """
        z, y, x = self.lines
        out = np.full(self.hu.shape, FAR, np.float32)
        tubes = tubes.within(z[0], z[-1], reach)
        radii = np.minimum(tubes.radii, 2 * tubes.radii - self.edge / 2)
        visible = (2 * tubes.radii.max(1) > FAINTEST * self.edge) & (tubes.radii.max(1) + reach > 0)
        ends, radii, far = tubes.ends[visible], radii[visible], tubes.radii[visible].max(1, keepdims=True) + reach
        low, high = ends.min(1) - far, ends.max(1) + far
        bounds = np.stack([np.searchsorted(line, (low[:, i], high[:, i])) for line, i in ((z, 2), (y, 1), (x, 0))])
        zf, yf, xf = (line.astype(np.float32) for line in self.lines)
        for i in np.flatnonzero((bounds[:, 0] < bounds[:, 1]).all(0)):
            (z0, z1), (y0, y1), (x0, x1) = bounds[:, :, i]
            (ax, ay, az), (bx, by, bz) = ends[i].astype(np.float32)
            px, py, pz = xf[x0:x1] - ax, yf[y0:y1, None] - ay, zf[z0:z1, None, None] - az
            bx, by, bz = bx - ax, by - ay, bz - az
            t = np.clip((px * bx + py * by + pz * bz) * (1 / (bx * bx + by * by + bz * bz + np.float32(1e-6))), 0, 1)
            gap = np.sqrt(np.square(px - t * bx) + np.square(py - t * by) + np.square(pz - t * bz))
            gap -= np.float32(radii[i, 0]) + t * np.float32(radii[i, 1] - radii[i, 0])
            window = out[z0:z1, y0:y1, x0:x1]
            np.minimum(window, gap, out=window)
        return out
