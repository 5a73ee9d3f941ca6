"""A CT volume as a DICOM series: CT Image Storage (PS3.3 A.3), one file per slice, names unrelated to their order."""

import hashlib
import shutil
from copy import copy
from pathlib import Path

import numpy as np
from pydicom.uid import CTImageStorage

from dira_scale.archive.phantom.ct.study import Study
from dira_scale.archive.phantom.dicom import (
    SYNTAX_SHARE,
    SYNTAXES,
    Identity,
    encoded,
    patient_and_study,
    set_pixels,
    uid,
)

BODY_PARTS = {"thorax": "CHEST", "abdomen": "ABDOMEN"}
# Centre, width; default first.
WINDOWS = {"thorax": ((-600, 1500), (40, 400)), "abdomen": ((60, 400), (40, 350))}
SIGNED_SHARE = 0.3


def write(
    folder: Path, study: Study, kind: str, identity: Identity, age: int, number: int, key: str, rng: np.random.Generator
) -> None:
    """Write the series into ``folder``, atomically.

    key: determines its unique identifiers; rng: transfer syntax, order of slices and the rest.
    """
    syntax = SYNTAXES[int(rng.choice(len(SYNTAXES), p=SYNTAX_SHARE))]
    signed, from_head = rng.random() < SIGNED_SHARE, rng.random() < 0.7
    description = f"CT {kind}" + (" with contrast medium" if study.enhanced else "")
    common = patient_and_study(identity, age, number, key, description, rng)
    common.SOPClassUID, common.Modality = CTImageStorage, "CT"
    common.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    common.BodyPartExamined, common.PatientPosition = BODY_PARTS[kind], "HFS"
    common.FrameOfReferenceUID, common.PositionReferenceIndicator = uid(key, "frame"), ""
    common.AcquisitionNumber, common.ConvolutionKernel = 1, study.scanner.kernel
    dz, dy, dx = study.grid.spacing
    common.PixelSpacing, common.SliceThickness = [f"{dy:.4f}", f"{dx:.4f}"], f"{dz:.4f}"
    common.ImageOrientationPatient, common.PhotometricInterpretation = [1, 0, 0, 0, 1, 0], "MONOCHROME2"
    common.RescaleIntercept, common.RescaleSlope, common.RescaleType = "0" if signed else "-1024", "1", "HU"
    common.WindowCenter, common.WindowWidth = ([str(window[i]) for window in WINDOWS[kind]] for i in (0, 1))
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for index, plane in enumerate(study.voxels):
        ds = copy(common)
        ds.SOPInstanceUID = uid(key, f"image {index}")
        ds.InstanceNumber = len(study.voxels) - index if from_head else index + 1
        x, y, z = (*study.grid.origin[:2], study.grid.line(0)[index])
        ds.ImagePositionPatient = [f"{v:.6g}" if abs(v) >= 1e6 else f"{v:.4f}" for v in (x, y, z)]
        ds.SliceLocation = f"{z:.4f}"
        set_pixels(ds, plane if signed else (plane + 1024).astype(np.uint16), 16 if signed else 12)
        name = hashlib.sha256(ds.SOPInstanceUID.encode()).hexdigest()[:8].upper()
        (part / f"{name}.dcm").write_bytes(encoded(ds, syntax))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
