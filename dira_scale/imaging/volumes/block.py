"""A block of a scan's voxels; reads only the rows that it needs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dira_scale.imaging.files import size_of
from dira_scale.imaging.rejection import RejectedError, rejects
from dira_scale.imaging.settings import ReadSettings
from dira_scale.imaging.volume import Volume
from dira_scale.imaging.volumes.geometry import LPS_TO_RAS, Grid
from dira_scale.imaging.volumes.read import grid_of
from dira_scale.imaging.volumes.values import to_volume
from dira_scale.storage.store import read_ranges

AIR = -1000  # HU


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a MetaImage scan, 16 bits in a ``.raw``: its centre (mm, DICOM's) and its size in voxels."""

    path: Path
    middle: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def paths(self) -> tuple[Path, ...]:
        return self.path, self.path.with_suffix(".raw")

    def read(self, settings: ReadSettings) -> Volume:
        """Read only the rows that it needs. Raises RejectedError, also if the centre is outside the scan."""
        grid, _ = grid_of(self.path)
        x_y_z = np.linalg.solve(grid.affine, LPS_TO_RAS @ [*self.middle, 1])[:3]
        middle = np.rint(x_y_z[::-1]).astype(int)
        if (middle < 0).any() or (middle >= grid.shape).any():
            raise RejectedError("a candidate outside its scan")
        first = middle - np.array(self.shape) // 2
        affine = grid.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ first[::-1]
        return to_volume(Grid(self.shape, affine), lambda: self._values(grid.shape, first), settings)

    def _values(self, scan: tuple[int, int, int], first: np.ndarray) -> np.ndarray:
        """int16 [Z, Y, X] of the block starting at voxel ``first`` of the scan."""
        values, raw = np.full(self.shape, AIR, np.int16), self.path.with_suffix(".raw")
        if size_of(raw) != 2 * int(np.prod(scan)):
            raise RejectedError("the values beside the header are not all of the scan's, as 16-bit numbers")
        _, height, width = scan
        low, high = np.maximum(first, 0), np.minimum(first + self.shape, scan)
        rows = [(z * height + int(low[1]), z * height + int(high[1])) for z in range(low[0], high[0])]
        with rejects("the file cannot be read ({})"):  # of each slice, only the rows of the block
            read = read_ranges(raw, [(2 * width * begin, 2 * width * end) for begin, end in rows])
        block = np.frombuffer(b"".join(read), "<i2").reshape(len(rows), -1, width)[..., low[2] : high[2]]
        z, y, x = (slice(a, b) for a, b in zip(low - first, high - first, strict=True))
        values[z, y, x] = block
        return values
