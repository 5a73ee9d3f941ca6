"""Interpolation along a volume's axes: to another spacing, and onto a regular grid."""

from dataclasses import replace

import numpy as np
import scipy.ndimage
import scipy.sparse

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volume import Annotated, Volume
from dira_scale.dataset.pixels.limits import MAX_VOXELS

INT16 = np.iinfo(np.int16)


def resample(
    volume: Volume, mask: np.ndarray | None, boxes: tuple[Box, ...], spacing: tuple[float, float, float]
) -> Annotated:
    """Resample to exactly ``spacing`` (z, y, x in mm), with the nearest number of voxels, around the same centre.

    Linear, after a Gaussian of sigma (factor - 1) / 2 voxels along axes that shrink by that factor; nearest neighbour
    for the mask. Raises RejectedError if the result would be too large.
    """
    if np.allclose(volume.spacing, spacing, rtol=1e-4):
        return Annotated(volume, mask, boxes)
    factors = np.array(spacing) / volume.spacing  # source voxels per new voxel
    shape = np.maximum(1, np.rint(volume.shape / factors).astype(int))
    if np.prod(shape, dtype=object) > MAX_VOXELS:
        raise RejectedError(f"more than {MAX_VOXELS} voxels at the spacing of the recipe")
    edges = (np.array(volume.shape) - shape * factors) / 2  # the new grid's outer edge in source voxels
    at = [edge + (np.arange(n) + 0.5) * f - 0.5 for n, f, edge in zip(shape, factors, edges, strict=True)]
    z, y, x = (weights(n, where, max(0.0, (f - 1) / 2)) for n, where, f in zip(volume.shape, at, factors, strict=True))
    voxels = apply(volume.voxels, z, y, x)
    to_source = np.diag([*factors[::-1], 1.0])
    to_source[:3, 3] = [axis[0] for axis in at[::-1]]
    moved = []
    for box in boxes:
        z0, y0, x0 = ((np.array([box.z, box.y, box.x]) - edges) / factors).tolist()
        d, h, w = (np.array([box.d, box.h, box.w]) / factors).tolist()
        moved.append(Box(box.label, y=y0, x=x0, h=h, w=w, z=z0, d=d))
    return Annotated(
        replace(volume, voxels=voxels, affine=volume.affine @ to_source),
        None if mask is None else nearest(mask, *at),
        tuple(moved),
    )


def weights(count: int, at: np.ndarray, sigma: float = 0.0) -> scipy.sparse.csr_array:
    """Matrix [len(at), count]: linear interpolation of ``count`` values at the indices ``at``.

    The values are smoothed by a Gaussian of ``sigma`` first. The outer values extend half a voxel beyond their
    centres; further out a row is empty.
    """
    inside = (at >= -0.5 - 1e-6) & (at <= count - 0.5 + 1e-6)
    where = np.clip(at, 0, count - 1)
    left = np.minimum(where.astype(int), max(count - 2, 0))
    right = np.minimum(left + 1, count - 1)
    share = where - left
    rows = np.arange(len(at))[inside]
    linear = scipy.sparse.coo_array(
        (
            np.concatenate([1 - share[inside], share[inside]]),
            (np.tile(rows, 2), np.concatenate([left[inside], right[inside]])),
        ),
        (len(at), count),
    ).tocsr()
    if sigma:
        gauss = scipy.ndimage.gaussian_filter1d(np.eye(count), sigma, axis=0, mode="nearest")
        linear = linear @ scipy.sparse.csr_array(gauss)
    return linear.astype(np.float32)


def apply(
    voxels: np.ndarray, z: scipy.sparse.csr_array, y: scipy.sparse.csr_array, x: scipy.sparse.csr_array, fill: int = 0
) -> np.ndarray:
    """int16 [..., Z, Y, X] multiplied by a matrix along each axis, in float32, rounded once.

    ``fill`` is the value for empty rows.
    """
    shape = (*voxels.shape[:-3], z.shape[0], y.shape[0], x.shape[0])
    result = np.empty(shape, np.int16)
    for channel in np.ndindex(voxels.shape[:-3]):
        planes = np.empty((voxels.shape[-3], y.shape[0], x.shape[0]), np.float32)
        for plane, out in zip(voxels[channel], planes, strict=True):
            out[...] = (x @ (y @ (plane.astype(np.float32) - fill)).T).T
        for row in range(y.shape[0]):  # row by row, to avoid a second float32 volume
            line = z @ planes[:, row] + fill
            result[channel][:, row] = np.clip(np.rint(line), INT16.min, INT16.max)
    return result


def nearest(mask: np.ndarray, *at: np.ndarray) -> np.ndarray:
    """``mask`` [Z, Y, X] at the nearest indices along each axis; 0 if more than half a voxel outside."""
    for axis, where in enumerate(at):
        count = mask.shape[axis]
        outside = (where < -0.5 - 1e-6) | (where > count - 0.5 + 1e-6)
        mask = np.take(mask, np.clip(np.floor(where + 0.5).astype(int), 0, count - 1), axis)
        if outside.any():
            np.moveaxis(mask, axis, 0)[outside] = 0
    return mask
