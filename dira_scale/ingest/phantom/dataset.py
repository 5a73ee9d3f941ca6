"""Many phantom patients as a folder of DICOM files, with labels, boxes and lung masks beside them.

    FOLDER/dicom/PAT00000/STUDY00/IMG.dcm    FOLDER/masks/PAT00000_STUDY00.png
    FOLDER/labels.csv     one row a file: file, patient, study, the 14 labels (0/1), view, sex, age, mask
    FOLDER/boxes.csv      file, label, y, x, h, w (pixels)
    FOLDER/records/       one small file a finished patient, from which an interrupted call goes on
    FOLDER/phantom.json   what the folder was made with, written last

A patient's files depend on (seed, size, mixture of findings, patient number) alone, so they are the same for any number
of workers.
"""

import csv
import io
import json
import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dira_scale.errors import UserError, nearest
from dira_scale.files import write_atomic
from dira_scale.ingest.phantom import dicom
from dira_scale.ingest.phantom.findings import LABELS, MIXTURES
from dira_scale.ingest.phantom.radiograph import take
from dira_scale.ingest.phantom.thorax import Anatomy

VERSION = 1  # of the drawing: other pictures, another number


def generate(
    folder: Path, patients: int, seed: int = 0, size: int = 512, workers: int | None = None, mixture: str = "all"
) -> Path:
    """Make phantom patients 0 ... patients - 1 (1 to 4 studies each) in `folder` and return it.

    What a former call finished is kept, so a finished folder costs nothing and a larger number of patients adds to it.
    workers: processes; default one a core. mixture: of findings, one of `findings.MIXTURES`. Raises UserError where the
    folder was made with other settings.
    """
    if mixture not in MIXTURES:
        raise UserError(f"phantoms have no findings '{mixture}'{nearest(mixture, MIXTURES)}: {' or '.join(MIXTURES)}")
    if patients < 1 or size < 64:
        raise UserError(f"phantoms need patients >= 1 and size >= 64, not patients={patients}, size={size}")
    folder = Path(folder)
    settings: dict[str, Any] = {"version": VERSION, "seed": seed, "size": size}
    if mixture != "all":  # folders of the default stay byte for byte what they were
        settings["findings"] = mixture
    finished = _finished(folder, settings)
    if finished > patients:
        raise UserError(f"{folder} already holds {finished} patients: ask for as many or more, or name another folder")
    if finished == patients:
        return folder
    (folder / "records").mkdir(parents=True, exist_ok=True)
    _write(folder / "settings.json", json.dumps(settings).encode())
    missing = [p for p in range(patients) if not _record(folder, p)]
    workers = min(workers or len(os.sched_getaffinity(0)), max(len(missing), 1))
    make = partial(make_patient, folder, seed, size, mixture)
    columns = (TextColumn("phantoms"), BarColumn(), MofNCompleteColumn(), TextColumn("patients"), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=patients, completed=patients - len(missing))
        if workers == 1:
            for patient in missing:
                make(patient)
                progress.advance(task)
        else:
            spawn = multiprocessing.get_context("spawn")  # a forked child would inherit locks of running threads
            with ProcessPoolExecutor(workers, spawn) as pool:
                for _ in pool.map(make, missing, chunksize=1):
                    progress.advance(task)
    _tables(folder, range(patients))
    _write(folder / "phantom.json", json.dumps(settings | {"patients": patients}).encode())
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
    identity = dicom.Identity.draw(identity_rng, patient, anatomy.sex, anatomy.age)
    rows = []
    for study in range(studies):
        rng, age = studies_rng[study], anatomy.age + study
        radiograph = take(anatomy, course[study], size, rng)
        name = f"PAT{patient:05d}", f"STUDY{study:02d}"
        key = f"dira_scale phantom {VERSION} {seed} {size} {patient} {study}"
        key += "" if mixture == "all" else f" {mixture}"
        coded = dicom.write(radiograph.pixels, radiograph.view, identity, age, study, key, rng)
        file, mask = f"dicom/{name[0]}/{name[1]}/IMG.dcm", f"masks/{name[0]}_{name[1]}.png"
        _write(folder / file, coded)
        _write(folder / mask, _png(radiograph.lungs))
        present = {f.label for f in course[study]}
        row: dict[str, Any] = {"file": file, "patient": name[0], "study": name[1]}
        row |= {label: int(label in present) for label in LABELS}
        row |= {"view": "PA" if radiograph.view.front else "AP", "sex": anatomy.sex, "age": age, "mask": mask}
        rows.append({"row": row, "boxes": [[label, *box] for label, box in radiograph.boxes]})
    _write(folder / "records" / f"{patient:05d}.json", json.dumps(rows).encode())


def _finished(folder: Path, settings: dict[str, Any]) -> int:
    """How many patients the folder holds complete (0: not finished); refuses other settings."""
    for name in ("phantom.json", "settings.json"):
        if (folder / name).exists():
            found = {"findings": "all"} | json.loads((folder / name).read_text())
            for key, value in ({"findings": "all"} | settings).items():
                if found[key] != value:
                    raise UserError(
                        f"{folder} holds phantoms made with {key}={found[key]}, not {value}: "
                        "name another folder, or remove this one"
                    )
    if not (folder / "phantom.json").exists():
        return 0
    return int(json.loads((folder / "phantom.json").read_text())["patients"])


def _record(folder: Path, patient: int) -> list[dict[str, Any]] | None:
    """The rows of a finished patient, None while any of its files is missing."""
    path = folder / "records" / f"{patient:05d}.json"
    if not path.exists():
        return None
    rows = json.loads(path.read_text())
    there = all((folder / r["row"][k]).exists() for r in rows for k in ("file", "mask"))
    return rows if there else None


def _tables(folder: Path, patients: Iterable[int]) -> None:
    labels, boxes = io.StringIO(newline=""), io.StringIO(newline="")
    rows = [r for p in patients for r in _record(folder, p) or []]
    table = csv.DictWriter(labels, rows[0]["row"], lineterminator="\n")
    table.writeheader()
    table.writerows(r["row"] for r in rows)
    lines = csv.writer(boxes, lineterminator="\n")
    lines.writerow(("file", "label", "y", "x", "h", "w"))
    lines.writerows((r["row"]["file"], *box) for r in rows for box in r["boxes"])
    _write(folder / "labels.csv", labels.getvalue().encode())
    _write(folder / "boxes.csv", boxes.getvalue().encode())


def _png(mask: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(out, "png", compress_level=1)
    return out.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)
