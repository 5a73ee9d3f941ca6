"""The folders of files: determinism, resuming, tables that agree with the files."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image

from dira_scale.archive.phantom.ct import dataset as scans
from dira_scale.archive.phantom.ct.study import FINDING, KINDS
from dira_scale.archive.phantom.cxr import dataset as radiographs
from dira_scale.archive.phantom.cxr.findings import LABELS, SMALL
from dira_scale.base.errors import UserError

PATIENTS, SIZE = 5, 96
CT = {"patients": 2, "seed": 4, "kind": "thorax", "format": "metaimage", "size": 32}  # three studies


def digest(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and "records" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return radiographs.generate(tmp_path_factory.mktemp("cxr"), PATIENTS, seed=7, size=SIZE)


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their vessels are few: 1,500 points of each lung's are most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dira_scale.archive.phantom.ct.chest.FED", 60)
        return scans.generate(tmp_path_factory.mktemp("ct"), **CT)


def test_same_bytes_for_two_workers(phantoms: Path, tmp_path: Path) -> None:
    again = radiographs.generate(tmp_path, PATIENTS, seed=7, size=SIZE, workers=2)
    assert digest(again) == digest(phantoms)


@pytest.mark.system
def test_same_scans_for_two_workers_and_for_several_threads(tmp_path: Path) -> None:
    given, two = CT | {"kind": "abdomen", "seed": 6}, str(tmp_path / "two")  # a study of each
    code = f"from dira_scale.archive.phantom.ct.dataset import generate\ngenerate({two!r}, workers=2, **{given})"
    threads = os.environ | {"OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200, env=threads, capture_output=True)
    assert digest(tmp_path / "two") == digest(scans.generate(tmp_path / "one", **given))


def test_interrupted_and_enlarged_goes_on_to_the_same_bytes(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made, interrupted = radiographs.make_patient, list[int](), [3]

    def stumble(folder: Path, seed: int, size: int, mixture: str, patient: int) -> None:
        if patient in interrupted:
            interrupted.remove(patient)
            raise KeyboardInterrupt
        made.append(patient)
        make(folder, seed, size, mixture, patient)

    monkeypatch.setattr(radiographs, "make_patient", stumble)
    radiographs.generate(tmp_path, 2, seed=7, size=SIZE)
    with pytest.raises(KeyboardInterrupt):
        radiographs.generate(tmp_path, PATIENTS, seed=7, size=SIZE)
    assert made == [0, 1, 2]
    next(tmp_path.glob("dicom/PAT00001/*/IMG.dcm")).unlink()  # a lost file is made again
    for _ in range(2):  # a finished folder costs nothing
        radiographs.generate(tmp_path, PATIENTS, seed=7, size=SIZE)
    assert made == [0, 1, 2, 1, 3, 4]
    assert digest(tmp_path) == digest(phantoms)


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"seed": 8}, "seed=7, not 8"),
        ({"size": 128}, f"size={SIZE}, not 128"),
        ({"patients": PATIENTS - 1}, f"already holds {PATIENTS} patients"),
        ({"patients": 0}, "patients=0"),
        ({"mixture": "small"}, "findings=all, not small"),
        ({"mixture": "smal"}, "no findings 'smal'; did you mean 'small'?"),
    ],
)
def test_other_settings_are_refused(phantoms: Path, changed: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        radiographs.generate(phantoms, **({"patients": PATIENTS, "seed": 7, "size": SIZE} | changed))


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"kind": "abdomen"}, "kind=thorax, not abdomen"),
        ({"kind": "torax"}, "no kind 'torax'; did you mean 'thorax'?"),
        ({"format": "nrrd"}, "no format 'nrrd'"),
    ],
)
def test_other_settings_of_scans_are_refused(chests: Path, changed: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        scans.generate(chests, **(CT | changed))


def test_tables_agree_with_the_radiographs(phantoms: Path) -> None:
    table = rows(phantoms / "labels.csv")
    assert list(table[0]) == ["file", "patient", "study", *LABELS, "view", "sex", "age", "mask"]
    assert len({r["patient"] for r in table}) == PATIENTS
    assert {r["file"] for r in table} == {str(p.relative_to(phantoms)) for p in phantoms.glob("dicom/*/*/*.dcm")}
    positive = {(r["file"], label) for r in table for label in LABELS if r[label] == "1"}
    assert {(box["file"], box["label"]) for box in rows(phantoms / "boxes.csv")} <= positive
    for row in table:
        file = pydicom.dcmread(phantoms / row["file"])
        assert (file.PatientSex, int(file.PatientAge[:3])) == (row["sex"], int(row["age"]))
        assert file.ViewPosition == row["view"]
        mask = np.asarray(Image.open(phantoms / row["mask"]))
        assert mask.shape == (SIZE, SIZE) and set(np.unique(mask)) == {0, 255}
        dense = file.pixel_array if file.PhotometricInterpretation == "MONOCHROME2" else 4095 - file.pixel_array
        assert dense[mask > 0].mean() < dense[mask == 0][dense[mask == 0] > 400].mean()  # lungs are dark


def test_tables_agree_with_the_scans(chests: Path) -> None:
    table = rows(chests / "labels.csv")
    expected = ["file", "patient", "study", "seriesuid", *KINDS["thorax"], "contrast", "sex", "age", "mask"]
    assert list(table[0]) == expected
    assert len({r["patient"] for r in table}) == CT["patients"] < len(table) == len({r["seriesuid"] for r in table})
    boxes, annotations = rows(chests / "boxes.csv"), rows(chests / "annotations.csv")
    assert list(annotations[0]) == ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    masks = {}
    for row in table:
        image, mask = (SimpleITK.ReadImage(str(chests / row[name])) for name in ("file", "mask"))
        assert image.GetSize() == mask.GetSize() and image.GetSize()[:2] == (CT["size"], CT["size"])
        assert image.GetOrigin() == mask.GetOrigin() and image.GetSpacing() == mask.GetSpacing()
        present = {b["label"] for b in boxes if b["file"] == row["file"]}
        assert present == {label for label in KINDS["thorax"] if row[label] == "1"}
        masks[row["seriesuid"]] = mask
    assert boxes
    for box, ball in zip(boxes, annotations, strict=True):
        mask, location = masks[ball["seriesuid"]], tuple(float(ball[f"coord{axis}"]) for axis in "XYZ")
        assert mask[mask.TransformPhysicalPointToIndex(location)] == FINDING
        low = np.array([float(box[k]) for k in "zyx"])
        high = low + [float(box[k]) for k in "dhw"]
        centre = np.array(mask.TransformPhysicalPointToContinuousIndex(location)[::-1]) + 0.5
        assert (low <= centre).all() and (centre <= high).all()
    ages = {(r["patient"], int(r["age"]) - int(r["study"][-2:])) for r in table}
    assert len(ages) == CT["patients"]  # a year older in each study


def test_the_small_mixture_is_another_course_of_the_same_patients(phantoms: Path, tmp_path: Path) -> None:
    radiographs.generate(tmp_path, 12, seed=7, size=SIZE, mixture="small")
    table, everything = rows(tmp_path / "labels.csv"), rows(phantoms / "labels.csv")
    kept = ("file", "patient", "study", "view", "sex", "age", "mask")
    for ours, theirs in zip(table, everything, strict=False):  # the first patients: body, studies and pose are theirs
        assert [ours[k] for k in kept] == [theirs[k] for k in kept]
    positive = {label for row in table for label in LABELS if row[label] == "1"}
    assert positive and positive <= set(SMALL)
    side = {"Mass": 75, "Pneumonia": 75, "Consolidation": 75}  # mm, of fields that are at least 385 wide
    boxes = rows(tmp_path / "boxes.csv")
    assert boxes and all(max(float(b["h"]), float(b["w"])) < side[b["label"]] * SIZE / 385 + 1 for b in boxes)


def test_the_default_mixture_is_drawn_as_ever(phantoms: Path) -> None:
    """The tables of these five patients, whatever other mixtures there are."""
    assert hashlib.sha256((phantoms / "labels.csv").read_bytes()).hexdigest()[:16] == "9d3052c23612f108"
    assert json.loads((phantoms / "settings.json").read_text()) == {
        "version": 3, "seed": 7, "size": SIZE, "findings": "all"
    }  # fmt: skip
