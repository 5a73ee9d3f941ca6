"""Phantom patients as a folder of CT volumes with annotations and masks: docs/explanation/phantoms.md.

A patient's files depend only on (seed, size, kind, format, patient number), so they are the same for any number of
workers; the voxels do not depend on the format either.
"""

import gzip
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from dira_scale.archive.phantom.anatomy import Anatomy
from dira_scale.archive.phantom.ct import dicom
from dira_scale.archive.phantom.ct.scanner import ScanGrid, Scanner
from dira_scale.archive.phantom.ct.study import KINDS, Patient
from dira_scale.archive.phantom.dicom import Identity, uid
from dira_scale.archive.phantom.folder import check_sizes, fill, save_record, write
from dira_scale.base.errors import UserError, nearest


def write_nifti(path: Path, voxels: np.ndarray, grid: ScanGrid) -> None:
    """[Z, Y, X] as ``.nii.gz``, reproducible byte for byte."""
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), grid.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(grid.affine, 1)  # scanner coordinates
    write(path, gzip.compress(image.to_bytes(), 1, mtime=0))


def write_metaimage(path: Path, voxels: np.ndarray, grid: ScanGrid) -> None:
    """[Z, Y, X] of int16 or uint8 as ``.mhd`` with a ``.raw`` beside it, as in LUNA16; the header is written last."""
    raw, kind = path.with_suffix(".raw"), {"int16": "MET_SHORT", "uint8": "MET_UCHAR"}[voxels.dtype.name]
    origin, spacing, size = (" ".join(map(str, v)) for v in (grid.origin, grid.spacing[::-1], voxels.shape[::-1]))
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
        f"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = {origin}\nElementSpacing = {spacing}\nDimSize = {size}\n"
        f"ElementType = {kind}\nElementDataFile = {raw.name}\n"
    )
    write(raw, voxels.astype(voxels.dtype.newbyteorder("<")).tobytes())
    write(path, header.encode())


VERSION = 3  # of the drawing; raise it when voxels change
SMALLEST = 32  # rows and columns
FORMATS = {"dicom": "", "nifti": ".nii.gz", "metaimage": ".mhd"}
SHARP_SHARE = {"thorax": 0.5, "abdomen": 0.0}  # share of studies with the lung kernel
STUDIES = (0.6, 0.25, 0.15)  # shares of patients with one, two, three


def generate(
    folder: Path,
    patients: int,
    seed: int = 0,
    kind: str = "thorax",
    format: str = "dicom",
    size: int = 512,
    workers: int = 1,
) -> Path:
    """Make phantom patients 0 ... patients - 1 (1 to 3 studies each) in ``folder`` and return it.

    Finished patients are kept, so a finished folder costs nothing and a larger number of patients adds to it.
    size: rows and columns; workers: processes. Raises UserError if the folder was made with other settings.
    """
    for name, value, names in (("kind", kind, KINDS), ("format", format, FORMATS)):
        if value not in names:
            raise UserError(f"CT phantoms have no {name} '{value}'{nearest(value, names)}: use {' or '.join(names)}")
    check_sizes(patients, size, SMALLEST)
    folder = Path(folder)
    settings = {"version": VERSION, "seed": seed, "size": size, "kind": kind, "format": format}
    fill(folder, settings, patients, partial(make_patient, folder, seed, size, kind, format), workers, "zyxdhw")
    return folder


def make_patient(folder: Path, seed: int, size: int, kind: str, format: str, patient: int) -> None:
    """Write all files of one patient, its record last."""
    anatomy_rng, course_rng, identity_rng, *streams = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed, spawn_key=(patient,)).spawn(3 + len(STUDIES))
    )
    anatomy = Anatomy.draw(anatomy_rng)
    identity = Identity.draw(identity_rng, patient, anatomy.sex, anatomy.age)
    subject, rows = Patient(anatomy, kind, int(course_rng.integers(2**31))), []
    for number, rng in enumerate(streams[: int(course_rng.choice(len(STUDIES), p=STUDIES)) + 1]):
        body = subject.body(number, rng)
        grid, placed = body.field(size, rng)
        scanner = Scanner.draw(rng, SHARP_SHARE[kind], grid.spacing[0])
        study = body.scan(grid, placed, scanner, int(rng.integers(2**31)))
        name, age = (f"PAT{patient:05d}", f"STUDY{number:02d}"), anatomy.age + number
        key = f"dira_scale phantom ct {VERSION} {seed} {size} {kind} {patient} {number}"
        ending, found = FORMATS[format] or FORMATS["nifti"], study.annotations
        file, mask = (f"{place}/{name[0]}_{name[1]}{ending}" for place in ("images", "masks"))
        writer = write_metaimage if format == "metaimage" else write_nifti
        if format == "dicom":
            file = f"images/{name[0]}/{name[1]}"
            dicom.write(folder / file, study, kind, identity, age, number, key, rng)
        else:
            writer(folder / file, study.voxels, study.grid)
        writer(folder / mask, study.mask, study.grid)
        row: dict[str, Any] = {"file": file, "patient": name[0], "study": name[1], "seriesuid": str(uid(key, "series"))}
        row |= {label: int(any(a.kind == label for a in found)) for label in KINDS[kind]}
        row |= {"contrast": "yes" if study.enhanced else "no", "sex": anatomy.sex, "age": age, "mask": mask}
        boxes = [[a.kind, *map(float, a.box)] for a in found]
        balls = [[round(float(v), 6) for v in (*a.centre, a.diameter)] for a in found]
        rows.append({"row": row, "boxes": boxes, "annotations": balls})
    save_record(folder, patient, rows)
