"""Phantom patients as a folder of CT volumes with annotations and masks.

    FOLDER/images/PAT00000/STUDY00/*.dcm          a DICOM series, or
    FOLDER/images/PAT00000_STUDY00.nii.gz         NIfTI, or
    FOLDER/images/PAT00000_STUDY00.mhd, .raw      MetaImage
    FOLDER/masks/PAT00000_STUDY00.nii.gz          (.mhd, .raw): 1 = lungs or liver, 2 = nodule or lesion
    FOLDER/labels.csv       one row per volume: file, patient, study, seriesuid, its findings (0/1), contrast, sex, age,
                            mask
    FOLDER/boxes.csv        file, label, z, y, x, d, h, w (voxels; z counts from the feet)
    FOLDER/annotations.csv  seriesuid, coordX, coordY, coordZ, diameter_mm, as in LUNA16 (mm, LPS)
    FOLDER/records/, settings.json, phantom.json: see `phantom.folder`

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
from dira_scale.archive.phantom.ct.study import KINDS, Patient, Study
from dira_scale.archive.phantom.dicom import Identity
from dira_scale.archive.phantom.folder import check_sizes, fill, save_record, write
from dira_scale.base.errors import UserError, nearest


def write_nifti(path: Path, voxels: np.ndarray, grid: ScanGrid) -> None:
    """[Z, Y, X] as ``.nii.gz``, reproducible byte for byte."""
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), grid.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(grid.affine, 1)  # scanner coordinates
    image.set_qform(grid.affine, 1)
    write(path, gzip.compress(image.to_bytes(), 1, mtime=0))


def write_metaimage(path: Path, voxels: np.ndarray, grid: ScanGrid) -> None:
    """[Z, Y, X] of int16 or uint8 as ``.mhd`` with a ``.raw`` beside it, as in LUNA16; the header is written last."""
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": False,
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": " ".join(map(str, grid.origin)),
        "ElementSpacing": " ".join(map(str, grid.spacing[::-1])),
        "DimSize": " ".join(map(str, voxels.shape[::-1])),
        "ElementType": {"int16": "MET_SHORT", "uint8": "MET_UCHAR"}[voxels.dtype.name],
        "ElementDataFile": path.with_suffix(".raw").name,  # the last one: what follows it would be voxels
    }
    write(path.with_suffix(".raw"), voxels.astype(voxels.dtype.newbyteorder("<")).tobytes())
    write(path, "".join(f"{key} = {value}\n" for key, value in header.items()).encode())


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
    rows = []
    for number, (study, anatomy, identity, rng) in enumerate(studies(seed, size, kind, patient)):
        name = f"PAT{patient:05d}", f"STUDY{number:02d}"
        key = f"dira_scale phantom ct {VERSION} {seed} {size} {kind} {patient} {number}"
        if format == "dicom":
            file = f"images/{name[0]}/{name[1]}"
            dicom.write(folder / file, study, kind, identity, anatomy.age + number, number, key, rng)
        else:
            file = f"images/{name[0]}_{name[1]}{FORMATS[format]}"
            _write_volume(folder / file, study.voxels, study)
        mask = f"masks/{name[0]}_{name[1]}{FORMATS[format] or FORMATS['nifti']}"
        _write_volume(folder / mask, study.mask, study)
        present = {annotation.kind for annotation in study.annotations}
        row: dict[str, Any] = {"file": file, "patient": name[0], "study": name[1], "seriesuid": dicom.series_uid(key)}
        row |= {label: int(label in present) for label in KINDS[kind]}
        row |= {
            "contrast": "yes" if study.enhanced else "no",
            "sex": anatomy.sex,
            "age": anatomy.age + number,
            "mask": mask,
        }
        boxes = [[annotation.kind, *map(float, annotation.box)] for annotation in study.annotations]
        nodules = [[round(float(v), 6) for v in (*a.centre, a.diameter)] for a in study.annotations]
        rows.append({"row": row, "boxes": boxes, "annotations": nodules})
    save_record(folder, patient, rows)


def studies(seed: int, size: int, kind: str, patient: int):  # type: ignore[no-untyped-def]
    """Each study of a patient, with the anatomy, the invented identity, and the header's random generator."""
    anatomy_rng, course_rng, identity_rng, *streams = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed, spawn_key=(patient,)).spawn(3 + len(STUDIES))
    )
    anatomy = Anatomy.draw(anatomy_rng)
    identity = Identity.draw(identity_rng, patient, anatomy.sex, anatomy.age)
    subject = Patient(anatomy, kind, int(course_rng.integers(2**31)))
    for number in range(int(course_rng.choice(len(STUDIES), p=STUDIES)) + 1):
        rng = streams[number]
        body = subject.body(number, rng)
        grid, placed = body.field(size, rng)
        scanner = Scanner.draw(rng, SHARP_SHARE[kind], grid.spacing[0])
        yield body.scan(grid, placed, scanner, int(rng.integers(2**31))), anatomy, identity, rng


def _write_volume(path: Path, voxels: np.ndarray, study: Study) -> None:
    writer = write_metaimage if path.suffix == ".mhd" else write_nifti
    writer(path, voxels, study.grid)
