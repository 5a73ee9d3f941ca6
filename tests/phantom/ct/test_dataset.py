"""The folder of volumes: determinism, resuming, tables that agree with the files."""

import csv
import hashlib
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from dira_scale.errors import UserError
from dira_scale.phantom.ct import dataset
from dira_scale.phantom.ct.study import FINDING, KINDS

PATIENTS, SIZE, SEED = 2, 32, 4  # three studies


def digest(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and "records" not in p.parts)
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


studies = dataset.studies


@cache
def drawn(*patient) -> list:
    return list(studies(*patient))


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each patient is computed once, for what is about files of voxels; a DICOM header would draw other numbers."""
    monkeypatch.setattr(dataset, "studies", drawn)


@pytest.fixture(scope="module")
def chests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "studies", drawn)
        return dataset.generate(folder, PATIENTS, SEED, "thorax", "metaimage", SIZE)


@pytest.mark.system
def test_same_bytes_for_two_workers_and_for_several_threads(chests: Path, tmp_path: Path) -> None:
    code = "from dira_scale.archive.sources.phantom import in_processes\n"
    code += "from dira_scale.phantom.ct.dataset import generate\n"
    code += f"generate({str(tmp_path)!r}, {PATIENTS}, {SEED}, 'thorax', 'metaimage', {SIZE}, run=in_processes(2))"
    command, threads = [sys.executable, "-c", code], {"OMP_NUM_THREADS": "2"}
    subprocess.run(command, check=True, timeout=200, env=os.environ | threads, capture_output=True)
    assert digest(tmp_path) == digest(chests)


@pytest.mark.usefixtures("remembered")
def test_interrupted_goes_on_to_the_same_bytes(chests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = dataset.make_patient, []

    def stumble(*arguments) -> None:
        if arguments[-1] == 1:
            raise KeyboardInterrupt
        made.append(arguments[-1])
        make(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "make_patient", stumble)
        dataset.generate(tmp_path, PATIENTS, SEED, "thorax", "metaimage", SIZE)
    assert made == [0] and not (tmp_path / "labels.csv").exists()
    monkeypatch.setattr(dataset, "make_patient", lambda *a: (made.append(a[-1]), make(*a)))
    for _ in range(2):  # a finished folder costs nothing
        dataset.generate(tmp_path, PATIENTS, SEED, "thorax", "metaimage", SIZE)
    assert made == [0, 1]
    assert digest(tmp_path) == digest(chests)


@pytest.mark.parametrize(
    "asked, told",
    [
        ({"seed": 8}, f"seed={SEED}, not 8"),
        ({"kind": "abdomen"}, "kind=thorax, not abdomen"),
        ({"kind": "torax"}, "no kind 'torax'; did you mean 'thorax'?"),
        ({"format": "nrrd"}, "no format 'nrrd'"),
        ({"patients": 0}, "patients=0"),
    ],
)
def test_other_settings_are_refused(chests: Path, asked: dict, told: str) -> None:
    settings = {"patients": PATIENTS, "seed": SEED, "kind": "thorax", "format": "metaimage", "size": SIZE} | asked
    with pytest.raises(UserError, match=told):
        dataset.generate(chests, **settings)


def test_tables_agree_with_the_files(chests: Path) -> None:
    table = rows(chests / "labels.csv")
    expected = ["file", "patient", "study", "seriesuid", *KINDS["thorax"], "contrast", "sex", "age", "mask"]
    assert list(table[0]) == expected
    assert len({r["patient"] for r in table}) == PATIENTS and len(table) > PATIENTS
    assert len({r["seriesuid"] for r in table}) == len(table)
    boxes, annotations = rows(chests / "boxes.csv"), rows(chests / "annotations.csv")
    assert list(annotations[0]) == ["seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"]
    assert len(boxes) == len(annotations) > 0
    volumes = {}
    for row in table:
        image, mask = (SimpleITK.ReadImage(str(chests / row[name])) for name in ("file", "mask"))
        assert image.GetSize() == mask.GetSize() and image.GetSize()[:2] == (SIZE, SIZE)
        assert image.GetOrigin() == mask.GetOrigin() and image.GetSpacing() == mask.GetSpacing()
        present = {b["label"] for b in boxes if b["file"] == row["file"]}
        assert present == {label for label in KINDS["thorax"] if row[label] == "1"}
        volumes[row["seriesuid"]] = SimpleITK.GetArrayFromImage(mask), mask
    for box, ball in zip(boxes, annotations, strict=True):
        mask, image = volumes[ball["seriesuid"]]
        place = tuple(float(ball[f"coord{axis}"]) for axis in "XYZ")
        assert mask[image.TransformPhysicalPointToIndex(place)[::-1]] == FINDING
        low = np.array([float(box[k]) for k in "zyx"])
        high = low + [float(box[k]) for k in "dhw"]
        centre = np.array(image.TransformPhysicalPointToContinuousIndex(place)[::-1]) + 0.5
        assert (low <= centre).all() and (centre <= high).all()
    ages = [(r["patient"], int(r["age"]) - int(r["study"][-2:])) for r in table]
    assert len(set(ages)) == PATIENTS  # a year older in each study


@pytest.mark.usefixtures("remembered")
def test_the_format_changes_no_voxel(chests: Path, tmp_path: Path) -> None:
    dataset.generate(tmp_path, 1, SEED, "thorax", "nifti", SIZE)
    for nifti, meta in zip(rows(tmp_path / "labels.csv"), rows(chests / "labels.csv"), strict=False):
        for name in ("file", "mask"):
            ours, theirs = (SimpleITK.ReadImage(str(f)) for f in (tmp_path / nifti[name], chests / meta[name]))
            np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(ours), SimpleITK.GetArrayFromImage(theirs))
            np.testing.assert_allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-3)
