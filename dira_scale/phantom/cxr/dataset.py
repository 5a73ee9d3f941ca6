"""Phantom patients as a folder of DICOM files with labels, boxes and lung masks.

    FOLDER/dicom/PAT00000/STUDY00/IMG.dcm    FOLDER/masks/PAT00000_STUDY00.png
    FOLDER/labels.csv     one row per file: file, patient, study, the 14 labels (0/1), view, sex, age, mask
    FOLDER/boxes.csv      file, label, y, x, h, w (pixels)
    FOLDER/records/, settings.json, phantom.json: see `phantom.folder`

A patient's files depend only on (seed, size, mixture of findings, patient number), so they are the same for any number
of workers.
"""

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dira_scale.errors import UserError, nearest
from dira_scale.phantom.anatomy import Anatomy
from dira_scale.phantom.cxr import devices, dicom
from dira_scale.phantom.cxr.findings import LABELS, MIXTURES
from dira_scale.phantom.cxr.radiograph import take
from dira_scale.phantom.dicom import Identity
from dira_scale.phantom.folder import Run, as_csv, check_sizes, fill, one_by_one, save_record, write

VERSION = 2  # of the drawing; raise it when pictures change
SMALLEST = 64  # pixels a side


def generate(
    folder: Path, patients: int, seed: int = 0, size: int = 512, mixture: str = "all", run: Run = one_by_one
) -> Path:
    """Make phantom patients 0 ... patients - 1 (1 to 4 studies each) in `folder` and return it.

    Finished patients are kept, so a finished folder costs nothing and a larger number of patients adds to it.
    mixture: of findings, one of `findings.MIXTURES`. run: runs the patients, by default in this process.
    Raises UserError if the folder was made with other settings.
    """
    if mixture not in MIXTURES:
        raise UserError(f"there are no findings '{mixture}'{nearest(mixture, MIXTURES)}: use {' or '.join(MIXTURES)}")
    check_sizes(patients, size, SMALLEST)
    folder = Path(folder)
    settings: dict[str, Any] = {"version": VERSION, "seed": seed, "size": size}
    if mixture != "all":  # folders of the default mixture omit it
        settings["findings"] = mixture
    fill(folder, settings, patients, partial(make_patient, folder, seed, size, mixture), run, _tables)
    return folder


def make_patient(folder: Path, seed: int, size: int, mixture: str, patient: int) -> None:
    """Write all files of one patient, its record last."""
    anatomy_rng, course_rng, identity_rng, *studies_rng, devices_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence(seed, spawn_key=(patient,)).spawn(3 + 4 + 1)
    )
    anatomy = Anatomy.draw(anatomy_rng)
    studies = int(course_rng.choice((1, 2, 3, 4), p=(0.45, 0.3, 0.15, 0.1)))
    _, draw = MIXTURES[mixture]
    course = draw(course_rng, studies)
    implants = devices.draw(devices_rng, anatomy.age, studies)
    identity = Identity.draw(identity_rng, patient, anatomy.sex, anatomy.age)
    rows = []
    for study in range(studies):
        rng, age = studies_rng[study], anatomy.age + study
        radiograph = take(anatomy, course[study], size, rng, implants[study])
        name = f"PAT{patient:05d}", f"STUDY{study:02d}"
        key = f"dira_scale phantom {VERSION} {seed} {size} {patient} {study}"
        key += "" if mixture == "all" else f" {mixture}"
        coded = dicom.write(radiograph.pixels, radiograph.view, identity, age, study, key, rng)
        file, mask = f"dicom/{name[0]}/{name[1]}/IMG.dcm", f"masks/{name[0]}_{name[1]}.png"
        write(folder / file, coded)
        write(folder / mask, _png(radiograph.lungs))
        present = {f.label for f in course[study]}
        row: dict[str, Any] = {"file": file, "patient": name[0], "study": name[1]}
        row |= {label: int(label in present) for label in LABELS}
        row |= {"view": "PA" if radiograph.view.front else "AP", "sex": anatomy.sex, "age": age, "mask": mask}
        rows.append({"row": row, "boxes": [[label, *box] for label, box in radiograph.boxes]})
    save_record(folder, patient, rows)


def _tables(records: list[dict[str, Any]]) -> dict[str, str]:
    boxes = ((record["row"]["file"], *box) for record in records for box in record["boxes"])
    return {
        "labels.csv": as_csv(list(records[0]["row"]), (record["row"].values() for record in records)),
        "boxes.csv": as_csv(("file", "label", "y", "x", "h", "w"), boxes),
    }


def _png(mask: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(out, "png", compress_level=1)
    return out.getvalue()
