"""From the pixels that a network sees back to those of the source, and masks as files in the source's geometry.

Images become PNG of the source's height and width, volumes NIfTI of its shape and affine. The header of a NIfTI source
lends its geometry alone (sform, qform, spacing, units); its texts may name a patient. Other formats' volumes, DICOM
series too, have the affine that they were read with, in mm, and DICOM's axial order of axes if their own is not known.
"""

import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import PIL.Image
import scipy.ndimage
import torch
from etils.epy import lazy_imports
from torch import Tensor

from dira_scale.archive.imaging.files import opened
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.nifti import read_header
from dira_scale.archive.imaging.volumes.read import grid_of
from dira_scale.judge.evaluation.inference import resized

with lazy_imports():
    from nibabel import nifti1, nifti2

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

OF_GEOMETRY = (
    "pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x",
    "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z",
)  # fmt: skip
MM_PER_INCH = 25.4


class SourceGeometry(Protocol):
    """The positions of a source's pixels. ``suffix``: of the files of masks."""

    @property
    def suffix(self) -> str: ...

    def restored(self, probabilities: Tensor) -> Tensor:
        """[K, *stored sides] -> [K, *source sides], linearly; 0 where nothing was stored."""
        ...

    def encoded(self, mask: np.ndarray) -> bytes:
        """The file of a mask uint8 [*source sides]."""
        ...


@dataclass(frozen=True)
class ImageGeometry:
    """``spacing``: mm in y and x; None: unknown."""

    sides: tuple[int, ...]
    spacing: tuple[float, ...] | None
    suffix = ".png"

    def restored(self, probabilities: Tensor) -> Tensor:
        return resized(probabilities, self.sides)

    def encoded(self, mask: np.ndarray) -> bytes:
        file, dots = io.BytesIO(), {}
        if self.spacing:
            dots = {"dpi": (MM_PER_INCH / self.spacing[1], MM_PER_INCH / self.spacing[0])}
        PIL.Image.fromarray(mask).save(file, "PNG", **dots)
        return file.getvalue()


@dataclass(frozen=True)
class Space:
    """Affines as in ``imaging.volume``: from (x, y, z) indices to mm.

    Attributes:
        stored: of the voxels that the network sees.
        shape, affine: of the source's, Z, Y, X: its file's third, second and first axis.
        header: of a NIfTI source.
    """

    stored: np.ndarray
    shape: tuple[int, ...]
    affine: np.ndarray
    header: "Nifti1Header | None" = None
    suffix = ".nii.gz"

    @classmethod
    def of(cls, source: object, read: Volume, stored: np.ndarray) -> "Space":
        """Return the space of a ``source`` that was ``read``, and then stored with another affine. Raises
        RejectedError."""
        if not isinstance(source, Path):
            return cls(stored, read.shape, read.affine)
        try:
            grid, _ = grid_of(source)
        except RejectedError:  # DICOM in one file, which other readers have
            return cls(stored, read.shape, read.affine)
        with opened(source) as file:
            try:
                header = read_header(file)[1]
            except RejectedError:  # no NIfTI
                header = None
        return cls(stored, grid.shape, grid.affine, header)

    def restored(self, probabilities: Tensor) -> Tensor:
        to_stored = np.linalg.inv(self.stored.astype(float)) @ self.affine
        if probabilities.shape[1:] == self.shape and np.allclose(to_stored, np.eye(4), atol=1e-4):
            return probabilities
        # A margin of a voxel, as resampling keeps the whole extent only to half a voxel; beyond it nothing is known.
        matrix, offset = to_stored[2::-1, 2::-1], to_stored[2::-1, 3] + 1
        channels = (np.pad(channel, 1, mode="edge") for channel in probabilities.numpy())
        moved = [scipy.ndimage.affine_transform(c, matrix, offset, self.shape, order=1) for c in channels]
        return torch.from_numpy(np.stack(moved))

    def encoded(self, mask: np.ndarray) -> bytes:
        """Encode a mask, or probabilities float32 [K, *source sides] as a volume of K values a voxel."""
        voxels = np.ascontiguousarray(mask.T)
        if self.header is None:
            image = nifti1.Nifti1Image(voxels, self.affine)
            image.header.set_xyzt_units("mm")
        else:
            kind = nifti2.Nifti2Image if isinstance(self.header, nifti2.Nifti2Header) else nifti1.Nifti1Image
            header = kind.header_class()
            header.set_data_dtype(voxels.dtype)
            header.set_data_shape(voxels.shape)
            for field in OF_GEOMETRY:
                header[field] = self.header[field]
            image = kind(voxels, None, header)
        return gzip.compress(image.to_bytes(), 6, mtime=0)
