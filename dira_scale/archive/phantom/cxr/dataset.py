"""Phantom patients as a folder of DICOM files with labels, boxes and lung masks: docs/explanation/phantoms.md.

A patient's files depend only on (seed, size, mixture of findings, patient number), so they are the same for any number
of workers.
"""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from dira_scale.archive.phantom.anatomy import Anatomy
from dira_scale.archive.phantom.cxr.findings import LABELS, MIXTURES
from dira_scale.archive.phantom.cxr.radiograph import take
from dira_scale.archive.phantom.cxr.view import View
from dira_scale.archive.phantom.dicom import SYNTAX_SHARE, SYNTAXES, Identity, encoded, patient_and_study, set_pixels
from dira_scale.archive.phantom.folder import check_sizes, fill, save_record, write
from dira_scale.base.errors import UserError, nearest

INVERTED_SHARE = 0.2


def as_dicom(
    pixels: np.ndarray, view: View, identity: Identity, age: int, study: int, key: str, rng: np.random.Generator
) -> bytes:
    """A DICOM file of presentation values [size, size] (uint16, 12 bits, dense = bright).

    key: determines its unique identifiers; rng: transfer syntax, direction of the grey scale and the rest.
    """
    inverted, syntax = rng.random() < INVERTED_SHARE, SYNTAXES[int(rng.choice(3, p=SYNTAX_SHARE))]
    ds = patient_and_study(identity, age, study, key, "Thorax", rng)
    ds.SOPClassUID, ds.Modality = DigitalXRayImageStorageForPresentation, "DX"
    ds.PresentationIntentType, ds.ImageType = "FOR PRESENTATION", ["DERIVED", "PRIMARY"]
    ds.BodyPartExamined, ds.ImageLaterality = "CHEST", "U"
    ds.ViewPosition, ds.PatientOrientation = "PA" if view.front else "AP", ["L", "F"]
    ds.AnatomicRegionSequence, ds.AcquisitionContextSequence = [_code("51185008", "Chest")], []
    position = ("399348003", "postero-anterior") if view.front else ("399033003", "antero-posterior")
    ds.ViewCodeSequence = [_code(*position)]
    ds.ExposureInuAs, ds.DistanceSourceToDetector = int(rng.integers(1200, 4200)), f"{view.source:.0f}"
    ds.DetectorType, ds.PositionerType = "DIRECT", "NONE"
    ds.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1 if inverted else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    low, high = (int(v) for v in np.percentile(pixels[::4, ::4], (1, 99)))
    center, width = (low + high + 1) // 2, max(high - low, 2)
    ds.WindowCenter, ds.WindowWidth = str(4095 - center if inverted else center), str(width)
    ds.ImagerPixelSpacing = ds.PixelSpacing = [f"{view.spacing:.6f}"] * 2
    set_pixels(ds, 4095 - pixels if inverted else pixels, 12)
    return encoded(ds, syntax)


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


VERSION = 3  # of the drawing; raise it when pictures change
SMALLEST = 64  # pixels a side


def generate(
    folder: Path, patients: int, seed: int = 0, size: int = 512, mixture: str = "all", workers: int = 1
) -> Path:
    """Make phantom patients 0 ... patients - 1 (1 to 4 studies each) in `folder` and return it.

    Finished patients are kept, so a finished folder costs nothing and a larger number of patients adds to it.
    mixture: of findings, one of `findings.MIXTURES`. workers: processes.
    Raises UserError if the folder was made with other settings.
    """
    if mixture not in MIXTURES:
        raise UserError(f"there are no findings '{mixture}'{nearest(mixture, MIXTURES)}: use {' or '.join(MIXTURES)}")
    check_sizes(patients, size, SMALLEST)
    folder = Path(folder)
    settings = {"version": VERSION, "seed": seed, "size": size, "findings": mixture}
    fill(folder, settings, patients, partial(make_patient, folder, seed, size, mixture), workers, "yxhw")
    return folder


def make_patient(folder: Path, seed: int, size: int, mixture: str, patient: int) -> None:
    """Write all files of one patient, its record last."""
    anatomy_rng, course_rng, identity_rng, *studies_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed, spawn_key=(patient,)).spawn(3 + 4)
    )
    anatomy = Anatomy.draw(anatomy_rng)
    studies = int(course_rng.choice((1, 2, 3, 4), p=(0.45, 0.3, 0.15, 0.1)))
    _, draw = MIXTURES[mixture]
    course = draw(course_rng, studies)
    identity = Identity.draw(identity_rng, patient, anatomy.sex, anatomy.age)
    rows = []
    for study in range(studies):
        rng, age = studies_rng[study], anatomy.age + study
        radiograph = take(anatomy, course[study], size, rng)
        name = f"PAT{patient:05d}", f"STUDY{study:02d}"
        key = f"dira_scale phantom {VERSION} {seed} {size} {mixture} {patient} {study}"
        coded = as_dicom(radiograph.pixels, radiograph.view, identity, age, study, key, rng)
        file, mask = f"dicom/{name[0]}/{name[1]}/IMG.dcm", f"masks/{name[0]}_{name[1]}.png"
        write(folder / file, coded)
        out = io.BytesIO()
        Image.fromarray(radiograph.lungs.astype(np.uint8) * 255).save(out, "png", compress_level=1)
        write(folder / mask, out.getvalue())
        present = {f.label for f in course[study]}
        row: dict[str, Any] = {"file": file, "patient": name[0], "study": name[1]}
        row |= {label: int(label in present) for label in LABELS}
        row |= {"view": "PA" if radiograph.view.front else "AP", "sex": anatomy.sex, "age": age, "mask": mask}
        rows.append({"row": row, "boxes": [[label, *box] for label, box in radiograph.boxes]})
    save_record(folder, patient, rows)
