"""A DICOM segmentation as a mask of the volume that it was drawn on."""

from typing import BinaryIO

import numpy as np

from dira_scale.imaging.dicom import read_segments
from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.volume import Volume
from dira_scale.imaging.volumes.geometry import Grid
from dira_scale.imaging.volumes.slice_position import pixels_to_voxels

TOLERANCE = 0.1  # voxels by which a frame's pixels may be off: headers are rounded


def read_segment_mask(file: BinaryIO, volume: Volume) -> np.ndarray:
    """uint8 [Z, Y, X]: each voxel's segment number; slices without a frame are 0.

    Raises RejectedError, also if frames are not on the voxel grid (e.g. slices were straightened), segments overlap,
    or slices of the series are missing.
    """
    if volume.filled:
        raise RejectedError("a DICOM segmentation of a series that lacks slices: these would have no mask")
    mask, grid = np.zeros(volume.shape, np.uint8), Grid(volume.shape, volume.affine)
    for plane, segment, inside in read_segments(file):
        matrix = pixels_to_voxels(plane, grid)
        whole = np.rint(matrix).astype(int)
        off = np.abs(matrix - whole) @ [inside.shape[1] - 1, inside.shape[0] - 1, 1]  # at the far corner
        rows, columns = np.nonzero(inside)
        x, y, z = whole @ [columns, rows, np.ones_like(rows)]
        outside = [(line < 0).any() or (line >= side).any() for line, side in zip((z, y, x), mask.shape, strict=True)]
        if off.max() > TOLERANCE or any(outside) or (np.abs(whole[:, :2]).sum(axis=0) != 1).any():
            raise RejectedError("the mask's grid is not the volume's")
        if ((mask[z, y, x] != 0) & (mask[z, y, x] != segment)).any():
            raise RejectedError("segments that overlap: a mask has one value a voxel")
        mask[z, y, x] = segment
    return mask
