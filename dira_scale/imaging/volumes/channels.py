"""Several volumes on one grid as the channels of one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.settings import ReadSettings
from dira_scale.imaging.volume import Volume
from dira_scale.imaging.volumes.geometry import Grid
from dira_scale.imaging.volumes.read import read_volume


@dataclass(frozen=True)
class Channels:
    """One volume of several files on the same grid."""

    paths: tuple[Path, ...]

    def read(self, settings: ReadSettings) -> Volume:
        """[C, Z, Y, X]; black is the lowest black of the channels, white the highest white.

        Raises RejectedError, also if the grids differ or a file does not fit int16 without scaling.
        """
        first, *others = volumes = [read_volume(path, settings) for path in self.paths]
        if not all(Grid(v.shape, v.affine).same_as(Grid(first.shape, first.affine)) for v in others):
            raise RejectedError("modalities on different grids")
        if any((v.scale, v.offset) != (1, 0) for v in volumes):
            raise RejectedError("modalities of values that are no 16-bit numbers cannot be channels of one volume")
        low, high = min(v.low for v in volumes), max(v.high for v in volumes)
        return Volume(np.stack([v.voxels for v in volumes]), first.affine, low, high)
