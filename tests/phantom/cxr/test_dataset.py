"""The folder of files: determinism, resuming, tables that agree with the files."""

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from dira_scale.archive.sources.phantom import in_processes
from dira_scale.errors import UserError
from dira_scale.phantom.cxr import dataset
from dira_scale.phantom.cxr.findings import LABELS, SMALL

PATIENTS, SIZE = 5, 96


def digest(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and "records" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dataset.generate(tmp_path_factory.mktemp("one"), PATIENTS, seed=7, size=SIZE)


def test_same_bytes_for_two_workers(phantoms: Path, tmp_path: Path) -> None:
    assert digest(dataset.generate(tmp_path, PATIENTS, seed=7, size=SIZE, run=in_processes(2))) == digest(phantoms)


def test_another_seed_gives_other_patients(phantoms: Path, tmp_path: Path) -> None:
    other = dataset.generate(tmp_path, 1, seed=8, size=SIZE)
    name = "dicom/PAT00000/STUDY00/IMG.dcm"
    assert (other / name).read_bytes() != (phantoms / name).read_bytes()


def test_interrupted_goes_on_to_the_same_bytes(phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = dataset.make_patient, []

    def stumble(folder: Path, seed: int, size: int, mixture: str, patient: int) -> None:
        if patient == 3:
            raise KeyboardInterrupt
        made.append(patient)
        make(folder, seed, size, mixture, patient)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "make_patient", stumble)
        dataset.generate(tmp_path, PATIENTS, seed=7, size=SIZE)
    assert made == [0, 1, 2] and not (tmp_path / "labels.csv").exists()
    next(tmp_path.glob("dicom/PAT00001/*/IMG.dcm")).unlink()  # a lost file is made again
    monkeypatch.setattr(dataset, "make_patient", lambda *a: (made.append(a[-1]), make(*a)))
    dataset.generate(tmp_path, PATIENTS, seed=7, size=SIZE)
    assert made == [0, 1, 2, 1, 3, 4]
    assert digest(tmp_path) == digest(phantoms)


def test_finished_costs_nothing_and_more_patients_are_added(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = dataset.make_patient, []
    monkeypatch.setattr(dataset, "make_patient", lambda *a: (made.append(a[-1]), make(*a)))
    for patients in (3, 3, PATIENTS):
        dataset.generate(tmp_path, patients, seed=7, size=SIZE)
    assert made == [0, 1, 2, 3, 4]
    assert digest(tmp_path) == digest(phantoms)


@pytest.mark.parametrize(
    "asked, told",
    [
        ({"seed": 8}, "seed=7, not 8"),
        ({"size": 128}, f"size={SIZE}, not 128"),
        ({"patients": PATIENTS - 1}, f"already holds {PATIENTS} patients"),
        ({"patients": 0}, "patients=0"),
        ({"mixture": "small"}, "findings=all, not small"),
        ({"mixture": "smal"}, "no findings 'smal'; did you mean 'small'?"),
    ],
)
def test_other_settings_are_refused(phantoms: Path, asked: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        dataset.generate(phantoms, **({"patients": PATIENTS, "seed": 7, "size": SIZE} | asked))


def test_tables_agree_with_the_files(phantoms: Path) -> None:
    table = rows(phantoms, "labels.csv")
    assert list(table[0]) == ["file", "patient", "study", *LABELS, "view", "sex", "age", "mask"]
    assert len({r["patient"] for r in table}) == PATIENTS
    assert sorted(r["file"] for r in table) == sorted(
        str(p.relative_to(phantoms)) for p in phantoms.glob("dicom/*/*/*.dcm")
    )
    positive = {(r["file"], label) for r in table for label in LABELS if r[label] == "1"}
    for box in rows(phantoms, "boxes.csv"):
        assert (box["file"], box["label"]) in positive
    for row in table:
        file = pydicom.dcmread(phantoms / row["file"])
        assert (file.PatientSex, int(file.PatientAge[:3]), file.ViewPosition) == (
            row["sex"],
            int(row["age"]),
            row["view"],
        )
        mask = np.asarray(Image.open(phantoms / row["mask"]))
        assert mask.shape == (SIZE, SIZE) and set(np.unique(mask)) == {0, 255}
        dense = file.pixel_array if file.PhotometricInterpretation == "MONOCHROME2" else 4095 - file.pixel_array
        assert dense[mask > 0].mean() < dense[mask == 0][dense[mask == 0] > 400].mean()  # lungs are dark


def test_the_small_mixture_is_another_course_of_the_same_patients(phantoms: Path, tmp_path: Path) -> None:
    dataset.generate(tmp_path, 12, seed=7, size=SIZE, mixture="small")
    table, everything = rows(tmp_path, "labels.csv"), rows(phantoms, "labels.csv")
    kept = ("file", "patient", "study", "view", "sex", "age", "mask")
    for ours, theirs in zip(table, everything, strict=False):  # the first patients: body, studies and pose are theirs
        assert [ours[k] for k in kept] == [theirs[k] for k in kept]
    positive = {label for row in table for label in LABELS if row[label] == "1"}
    assert positive and positive <= set(SMALL)
    side = {"Mass": 75, "Pneumonia": 75, "Consolidation": 75}  # mm, of fields that are at least 385 wide
    boxes = rows(tmp_path, "boxes.csv")
    assert boxes and all(max(float(b["h"]), float(b["w"])) < side[b["label"]] * SIZE / 385 + 1 for b in boxes)


def test_the_default_mixture_is_drawn_as_ever(phantoms: Path) -> None:
    """The tables of these five patients, whatever other mixtures there are."""
    assert hashlib.sha256((phantoms / "labels.csv").read_bytes()).hexdigest()[:16] == "9d3052c23612f108"
    assert json.loads((phantoms / "settings.json").read_text()) == {"version": 2, "seed": 7, "size": SIZE}
