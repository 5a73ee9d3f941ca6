"""Sequences of one session as the channels of one volume: on the grid of the first, each with a range of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from dira_scale.archive.imaging.rejection import GeometryError, RejectedError
from dira_scale.archive.imaging.settings import ReadSettings
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.geometry import Grid
from dira_scale.archive.imaging.volumes.read import read_channels, read_volume
from dira_scale.archive.imaging.volumes.series import Series

LEAST_OVERLAP = 0.5  # of the smaller of two volumes: below, they are of different parts, or not in one frame
EDGE = 0.5 + 1e-6  # voxels from the centre of an outer voxel to where the volume ends


@dataclass(frozen=True)
class Channels:
    """A volume of several files or DICOM series, by ``names``; None: the session lacks it. Or all in one file."""

    names: tuple[str, ...]
    parts: tuple[Path | Series | None, ...]

    @property
    def leader(self) -> Path | Series:
        """The first that is there, whose grid all have."""
        return next(part for part in self.parts if part is not None)

    @property
    def paths(self) -> tuple[Path, ...]:
        there = (part for part in self.parts if part is not None)
        return tuple(path for part in there for path in (part.paths if isinstance(part, Series) else (part,)))

    def read(self, settings: ReadSettings) -> Volume:
        """[C, Z, Y, X], as :func:`stacked`. Raises RejectedError, naming the channel."""
        if len(self.parts) < len(self.names):
            channels = read_channels(self.paths[0], settings)
            if len(channels) != len(self.names):
                raise RejectedError(f"{len(channels)} channels instead of {len(self.names)} ({', '.join(self.names)})")
            return stacked(self.names, channels)
        volumes: list[Volume | None] = []
        for name, part in zip(self.names, self.parts, strict=True):
            if part is None:
                volumes.append(None)
                continue
            try:
                volume = part.read(settings) if isinstance(part, Series) else read_volume(part, settings)
            except RejectedError as error:
                raise type(error)(f"{name}: {error}") from error.__cause__
            if volume.voxels.ndim != 3:
                raise RejectedError(f"{name}: a file of several channels")
            volumes.append(volume)
        return stacked(self.names, volumes)


def stacked(names: Sequence[str], volumes: Sequence[Volume | None]) -> Volume:
    """``volumes`` as channels of one, on the grid of the first that is there; zeros for those that are lacking.

    Raises GeometryError for volumes that lie apart by their affines.
    """
    there = [(name, volume) for name, volume in zip(names, volumes, strict=True) if volume is not None]
    leader, first = there[0]
    grid = Grid(first.shape, first.affine)
    voxels, notes = np.zeros((len(names), *first.shape), np.int16), []
    for channel, (name, volume) in zip(voxels, zip(names, volumes, strict=True), strict=True):
        if volume is None:
            notes.append(f"{name} is lacking")
            continue
        if grid.same_as(Grid(volume.shape, volume.affine)):
            channel[...] = volume.voxels
            continue
        if not resample_to(volume, grid, channel) >= LEAST_OVERLAP:
            raise GeometryError(f"{name} and {leader} overlap by less than half, by their positions in the headers")
        notes.append(f"{name} was resampled to the grid of {leader}")
    low, high = (tuple(math.nan if v is None else getattr(v, end) for v in volumes) for end in ("low", "high"))
    filled = sum(volume.filled for _, volume in there)
    return replace(first, voxels=voxels, ranges=(low, high), filled=filled, notes=tuple(notes))


def resample_to(volume: Volume, grid: Grid, out: np.ndarray) -> float:
    """Write ``volume`` [Z, Y, X] into ``out``, int16 in the shape of ``grid``; return how much of the smaller overlaps.

    Linear by the affines, in any orientation, after a Gaussian of sigma (step - 1) / 2 voxels along axes where a step
    of the grid is more than a voxel. The outer values extend half a voxel; beyond is the smallest.
    """
    to_source = np.linalg.inv(volume.affine) @ grid.affine  # of indices (x, y, z)
    turn, start = to_source[:3, :3][::-1, ::-1], to_source[:3, 3][::-1]
    sigma = np.maximum(0, (np.linalg.norm(turn, axis=1) - 1) / 2)
    values = volume.voxels.astype(np.float32)
    if sigma.any():
        values = gaussian_filter(values, sigma, mode="nearest")
    in_plane = np.tensordot(turn[:, 1:], np.indices(grid.shape[1:]), 1) + start[:, None, None]
    ends = np.array(volume.shape)[:, None, None] - 1
    darkest, count = volume.voxels.min(), 0
    for z, plane in enumerate(out):
        at = in_plane + z * turn[:, 0, None, None]
        inside = ((at >= -EDGE) & (at <= ends + EDGE)).all(0)
        plane[...] = np.where(inside, np.rint(map_coordinates(values, at, order=1, mode="nearest")), darkest)
        count += int(inside.sum())
    sizes = [float(np.prod(box.shape) * np.prod(box.spacing)) for box in (grid, volume)]  # mm³
    return count / math.prod(grid.shape) * sizes[0] / min(sizes)
