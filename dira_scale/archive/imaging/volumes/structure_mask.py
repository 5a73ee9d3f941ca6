"""Masks from the structures of a SEG or RTSTRUCT."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import BinaryIO

import numpy as np

from dira_scale.archive.imaging.dicom.segmentation import read_segments
from dira_scale.archive.imaging.dicom.structures import CONTOURS, read_contours, structures_in
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.geometry import LPS_TO_RAS, Grid
from dira_scale.archive.imaging.volumes.slice_position import TOLERANCE, voxels_of

MAX_VALUE = 255  # of a mask
CROSSINGS = 2**22  # of edges and rows, that are held at once


def value_of(name: str, patterns: Sequence[str]) -> int:
    """The number from 1 of the last pattern that a structure's ``name`` matches, in any case; 0 if none does."""
    matched = (k for k, glob in enumerate(patterns, 1) if fnmatchcase(name.casefold(), glob.casefold()))
    return max(matched, default=0)


def structure_mask(file: BinaryIO, volume: Volume, patterns: Sequence[str] = ()) -> np.ndarray:
    """uint8 [Z, Y, X]: each voxel's structure, by ``value_of`` its name, the larger value where several lie; without
    ``patterns`` its number. Slices without a frame or contour are 0.

    Raises RejectedError, also if frames or contours are not on the voxel grid (e.g. slices were straightened), slices
    of the series are missing, no name matches, or, without ``patterns``, structures overlap.
    """
    described = structures_in(file)
    if described is None:
        raise RejectedError("a DICOM mask that is not a segmentation (SEG) or contours (RTSTRUCT)")
    if volume.filled:
        raise RejectedError("a SEG or RTSTRUCT of a series that lacks slices: these would have no mask")
    values = {number: value_of(name, patterns) for number, name in described.names.items()}
    if patterns and not any(values.values()):
        raise RejectedError("a SEG or RTSTRUCT without a structure that was asked for", decided_by="structures")
    mask, grid = np.zeros(volume.shape, np.uint8), Grid(volume.shape, volume.affine)
    if described.kind == CONTOURS:
        drawn = _contours(file, grid)
    else:
        frames = ((plane, segments, np.nonzero(segments)) for plane, segments in read_segments(file))
        drawn = ((s[pixels], tuple(voxels_of(plane, grid, s.shape, *pixels))) for plane, s, pixels in frames)
    for numbers, where in drawn:
        distinct, which = np.unique(numbers, return_inverse=True)
        if not patterns and not 1 <= distinct.min(initial=1) <= distinct.max(initial=1) <= MAX_VALUE:
            raise RejectedError(f"a structure's number is not from 1 to {MAX_VALUE}", decided_by="unnamed")
        new = np.array([values.get(int(number), 0) if patterns else number for number in distinct], np.uint8)[which]
        old = mask[where]
        if not patterns and ((old != 0) & (old != new)).any():
            raise RejectedError("structures that overlap", decided_by="overlap")
        mask[where] = np.maximum(old, new)
    return mask


Drawn = tuple[np.ndarray | int, tuple[np.ndarray, ...]]  # structures' numbers, of all voxels or each; z, y, x


def _contours(file: BinaryIO, grid: Grid) -> Iterator[Drawn]:
    """The voxels whose centres are inside an odd number of a ROI's contours in one slice."""
    to_voxels = np.linalg.inv(LPS_TO_RAS @ grid.affine)[:3]
    placed = {
        number: [(points @ to_voxels[:, :3].T + to_voxels[:, 3])[:, ::-1] for points in contours]
        for number, contours in read_contours(file).items()
    }
    middles = {number: [np.rint(points.mean(0)).astype(int) for points in drawn] for number, drawn in placed.items()}
    off = [np.abs(points - at).max(0) for n in placed for points, at in zip(placed[n], middles[n], strict=True)]
    if not off:
        return
    axis = int(np.argmin(np.max(off, axis=0)))  # across the slices
    if np.max(off, axis=0)[axis] > TOLERANCE:
        raise RejectedError("RTSTRUCT contours that are not in the slices of the series")
    for number, contours in placed.items():
        slices = defaultdict[int, list[np.ndarray]](list)
        for points, at in zip(contours, middles[number], strict=True):
            slices[at[axis]].append(np.delete(points, axis, 1))
        for index, polygons in slices.items():
            if not 0 <= index < grid.shape[axis]:
                raise RejectedError("RTSTRUCT contours that are not in the slices of the series")
            inside = np.expand_dims(even_odd(polygons, np.delete(grid.shape, axis).tolist()), axis)
            where = list(np.nonzero(inside))
            where[axis] += index
            yield number, tuple(where)


def even_odd(polygons: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """bool [rows, columns]: the pixels whose centres are inside an odd number of ``polygons``, each [n, 2] of row and
    column, and closed. Memory is bounded, whatever they are."""
    rows, columns = shape
    starts, ends = np.concatenate(polygons), np.concatenate([np.roll(points, -1, axis=0) for points in polygons])
    flips = np.zeros(rows * (columns + 1), int)
    step = max(1, CROSSINGS // rows)
    for first in range(0, len(starts), step):
        (v0, u0), (v1, u1) = starts[first : first + step].T, ends[first : first + step].T
        top = np.clip(np.ceil(np.minimum(v0, v1)), 0, rows).astype(int)  # the first row that an edge crosses
        count = np.clip(np.ceil(np.maximum(v0, v1)), 0, rows).astype(int) - top
        edge = np.repeat(np.arange(len(top)), count)
        row = top[edge] + np.arange(len(edge)) - (np.cumsum(count) - count)[edge]
        u = u0[edge] + (row - v0[edge]) / (v1 - v0)[edge] * (u1 - u0)[edge]
        column = np.clip(np.ceil(u), 0, columns).astype(int)  # all from here on change sides
        flips += np.bincount(row * (columns + 1) + column, minlength=len(flips))
    return np.cumsum(flips.reshape(rows, columns + 1), axis=1)[:, :columns] % 2 == 1
