"""Write volumes and masks as NIfTI and MetaImage."""

import gzip
import os
import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from dira_scale.phantom.ct.grid import ScanGrid
from dira_scale.phantom.folder import write


def write_nifti(path: Path, voxels: np.ndarray, grid: ScanGrid) -> None:
    """[Z, Y, X] as ``.nii.gz``, reproducible byte for byte."""
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), grid.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(grid.affine, 1)  # scanner coordinates
    image.set_qform(grid.affine, 1)
    write(path, gzip.compress(image.to_bytes(), 1, mtime=0))


def write_metaimage(path: Path, voxels: np.ndarray, grid: ScanGrid) -> None:
    """[Z, Y, X] as ``.mhd`` with a ``.raw`` beside it, as in LUNA16; the header is written last."""
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part") as part:
        SimpleITK.WriteImage(image, os.fspath(Path(part) / path.name), useCompression=False)
        for name in (path.with_suffix(".raw").name, path.name):
            shutil.move(Path(part) / name, path.parent / name)
