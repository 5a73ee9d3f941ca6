"""A folder of volumes as a source: which files are one volume, what the CSV says of them, what is rejected and why."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from archive import ingest
from archive.imaging.volumes import make
from nibabel.affines import apply_affine

from dira_scale.archive.imaging.volumes import read_volume, read_volume_mask
from dira_scale.archive.plan import Item
from dira_scale.archive.reading import read_input
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sample import sample_of
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.volumes import Volumes
from dira_scale.base.errors import UserError


def listed(folder: Path, **keys: Any) -> dict[str, SourceRecord]:
    records = list(Volumes(images=str(folder), **keys).records(workers=1))
    assert len({record.name for record in records}) == len(records)
    return {record.name: pickle.loads(pickle.dumps(record)) for record in records}


def read(record: SourceRecord) -> Any:
    image, settings = record.image, make.settings()
    return image.read(settings) if isinstance(image, SourceImage) else read_volume(image, settings)


def only(records: dict[str, SourceRecord]) -> SourceRecord:
    (record,) = records.values()
    return record


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(values.astype(np.int16), np.eye(4) if affine is None else affine).to_filename(path)
    return path


def test_series_are_found_at_any_depth_and_apart(tmp_path: Path) -> None:
    """Two series mixed in one folder, a third spread over two."""
    first, second, third = (make.smooth((5, 8, 8), seed) for seed in range(3))
    make.series(tmp_path / "a/deep", first, SeriesInstanceUID="1.2.1", PatientID="P1")
    for path in make.series(tmp_path / "b", second, SeriesInstanceUID="1.2.2", PatientID="P2"):
        path.rename(tmp_path / "a/deep" / f"other-{path.name}")
    for number, path in enumerate(make.series(tmp_path / "b", third, SeriesInstanceUID="1.2.3", PatientID="P3")):
        if number % 2:
            (tmp_path / "c").mkdir(exist_ok=True)
            path.rename(tmp_path / "c" / path.name)
    records = listed(tmp_path)
    assert set(records) == {"a/deep 1.2.1", "a/deep 1.2.2", "b 1.2.3"}
    for (_, record), values, patient in zip(sorted(records.items()), (first, second, third), "123", strict=True):
        assert (record.rejected, record.patient) == (None, f"P{patient}")
        assert record.size == sum(path.stat().st_size for path in record.image.paths)
        np.testing.assert_array_equal(read(record).voxels, values)


def test_what_is_no_volume_is_listed_with_its_reason(tmp_path: Path) -> None:
    make.series(tmp_path / "scout", make.smooth((2, 8, 8)), SeriesInstanceUID="1.1",
                ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])  # fmt: skip
    make.series(tmp_path / "one", make.smooth((1, 8, 8)), SeriesInstanceUID="1.2")
    make.series(tmp_path / "gap", make.smooth((9, 8, 8)), SeriesInstanceUID="1.3",
                step=lambda k: (0, 0, k + 4 * (k > 4)))  # fmt: skip
    paths = make.series(tmp_path / "mixed", make.smooth((4, 8, 8)), SeriesInstanceUID="1.4")
    make.change(paths[2], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    paths = make.series(tmp_path / "sizes", make.smooth((4, 8, 8)), SeriesInstanceUID="1.5")
    make.change(paths[2], Rows=4)
    paths = make.series(tmp_path / "twice", make.smooth((4, 8, 8)), SeriesInstanceUID="1.6")
    shutil.copy(paths[1], tmp_path / "twice" / "copy.dcm")
    paths = make.series(tmp_path / "clash", make.smooth((4, 8, 8)), SeriesInstanceUID="1.7")
    make.change(paths[1], ImagePositionPatient=pydicom.dcmread(paths[2]).ImagePositionPatient)
    make.change(make.series(tmp_path / "nowhere", make.smooth((1, 8, 8)), SeriesInstanceUID="1.8")[0],
           ImagePositionPatient=None)  # fmt: skip
    reasons = {name: record.rejected for name, record in listed(tmp_path).items()}
    assert reasons == {
        "scout 1.1 scout": "a localiser (scout), no volume",
        "one 1.2": "a single slice",
        "gap 1.3": "slices are missing: a gap of more than three slices",
        "mixed 1.4": "slices of different orientations",
        "sizes 1.5": "slices of different sizes",
        "twice 1.6": None,
        "twice/copy.dcm": "a copy of another slice of its series",
        "clash 1.7": "several slices at one position",
        "nowhere 1.8": "slices without position, orientation or spacing",
    }


def test_echoes_at_the_same_positions_are_volumes_of_their_own(tmp_path: Path) -> None:
    echoes = [make.smooth((4, 8, 8), seed) for seed in range(2)]
    for number, values in enumerate(echoes):
        make.series(tmp_path / str(number), values, EchoNumbers=number + 1)
    records = sorted(listed(tmp_path).items())
    assert [name.rpartition(" ")[2] for name, _ in records] == ["1", "2"]
    for (_, record), values in zip(records, echoes, strict=True):
        np.testing.assert_array_equal(read(record).voxels, values)


COLUMNS = {"file": "file", "patient": "patient", "study": None, "split": "split", "mask": "mask"}


def test_a_row_may_name_a_link(tmp_path: Path) -> None:
    """To a volume that lies elsewhere, as DataLad has them: it is listed once."""
    np.save(tmp_path / "elsewhere.npy", make.smooth((4, 8, 8)))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.npy").symlink_to(tmp_path / "elsewhere.npy")
    table = ingest.csv(tmp_path / "list.csv", [{"file": "a.npy", "patient": "P1"}])
    record = only(listed(tmp_path / "images", labels=str(table), columns={"file": "file", "patient": "patient"}))
    assert (record.name, record.patient, record.rejected) == ("a.npy", "P1", None)


def test_a_row_may_name_a_file_a_folder_or_a_slice(tmp_path: Path) -> None:
    values = make.smooth((5, 8, 9))
    make.series(tmp_path / "images/ct", values, SeriesInstanceUID="1.1")
    paths = make.series(tmp_path / "images/mr", values, SeriesInstanceUID="1.2")
    make.series(tmp_path / "images/none", values, SeriesInstanceUID="1.3")
    nifti(tmp_path / "images/a.nii.gz", values.T)
    lps = np.array([[-0.7, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 2, 40], [0, 0, 0, 1]])
    mask = nifti(tmp_path / "images/lung.nii.gz", (values > 0).T, lps)
    rows = [
        {"file": "ct", "patient": "P1", "split": "train", "mask": "lung.nii.gz", "cancer": 1},
        {"file": f"mr/{paths[2].name}", "patient": "P2", "split": "val", "mask": "", "cancer": 0},
        {"file": "a.nii.gz", "patient": "P3", "split": "val", "mask": "", "cancer": ""},
        {"file": "gone.nii.gz", "patient": "P4", "split": "val", "mask": "", "cancer": 0},
    ]
    table = ingest.csv(tmp_path / "list.csv", rows)
    records = listed(tmp_path / "images", labels=str(table), columns=COLUMNS)
    assert {name: record.rejected for name, record in records.items()} == {
        "ct 1.1": None,
        "mr 1.2": "slices of one series in several rows of the CSV, or not in all",
        "a.nii.gz": None,
        "gone.nii.gz": "named in the CSV, not there",
    }
    series = records["ct 1.1"]
    assert (series.patient, series.split, series.labels, series.mask) == ("P1", "train", (1.0,), mask)
    assert series.mask is not None and np.isnan(records["a.nii.gz"].labels[0])
    drawn = read_volume_mask(series.mask, read(series))
    np.testing.assert_array_equal(drawn, values > 0)


def test_a_mask_for_two_series_is_refused(tmp_path: Path) -> None:
    for uid in "12":
        make.series(tmp_path / "images/ct" / uid, make.smooth((5, 8, 9)), SeriesInstanceUID=f"1.{uid}")
    nifti(tmp_path / "m.nii", make.smooth((9, 8, 5)))
    for mask, reason in (("m.nii", "a mask or boxes for a folder of several series"), ("", None)):
        table = ingest.csv(tmp_path / "list.csv", [{"file": "ct", "patient": "P", "split": "train", "mask": mask}])
        records = listed(tmp_path / "images", labels=str(table), columns=COLUMNS)
        assert [record.rejected for record in records.values()] == [reason] * 2


@pytest.mark.parametrize("kind", ["series", "tilted series", "nifti"])
def test_boxes_in_millimetres_lie_where_the_finding_is(tmp_path: Path, kind: str) -> None:
    """A bright ball at a known place of the patient, as LUNA16 lists it; its box in the volume that is read."""
    at, corner, step = np.array([4.0, -9.0, 55.0]), np.array([-20.0, -30, 40]), np.array([0, 0, 2.0])
    lean = np.radians(15 if kind == "tilted series" else 0)
    right, down = np.array([1.0, 0, 0]), np.array([0, np.cos(lean), -np.sin(lean)])
    k, r, c = np.indices((16, 60, 70))[..., None]
    lps = corner + k * step + r * 0.8 * down + c * 0.7 * right
    values = np.where(np.linalg.norm(lps - at, axis=-1) < 6, 500, -500 + k[..., 0])
    if kind == "nifti":
        affine = np.array([[-0.7, 0, 0, 20], [0, -0.8, 0, 30], [0, 0, 2.0, 40], [0, 0, 0, 1]])
        image = nibabel.Nifti1Image(values.T.astype(np.int16), affine)
        (tmp_path / "images").mkdir()
        image.as_reoriented(nibabel.orientations.axcodes2ornt("PIR")).to_filename(tmp_path / "images/ct.nii.gz")
    else:
        make.series(tmp_path / "images/ct", values, corner, (right, down), step)
    name = "ct.nii.gz" if kind == "nifti" else "ct"
    x, y, z = at
    row = {"file": name, "coordX": x, "coordY": y, "coordZ": z, "diameter_mm": 12}
    record = only(listed(tmp_path / "images", boxes=str(ingest.csv(tmp_path / "boxes.csv", [row]))))
    volume = read(record)
    (box,) = record.boxes
    bright = np.argwhere(volume.voxels > 0)
    first, last = bright.min(axis=0), bright.max(axis=0) + 1
    np.testing.assert_allclose((box.z, box.y, box.x), first, atol=1.2)
    np.testing.assert_allclose((box.z + box.d, box.y + box.h, box.x + box.w), last, atol=1.2)
    middle = apply_affine(volume.affine, (box.x + box.w / 2 - 0.5, box.y + box.h / 2 - 0.5, box.z + box.d / 2 - 0.5))
    np.testing.assert_allclose(middle, at * [-1, -1, 1], atol=1e-4)


def test_balls_are_cut_at_the_border_of_the_volume(tmp_path: Path) -> None:
    """A nodule that the scan ends in is a finding of the scan, and not a reason to reject it."""
    make.series(tmp_path / "images/ct", make.smooth((16, 60, 70)))  # from (-20, -30, 40), 0.7 x 0.8 x 2 mm
    middles = [(-20 + 0.7 * 30, -30 + 0.8 * 59, 40.0), (-20, -30 + 0.8 * 20, 40 + 2 * 15.0)]
    rows = [{"file": "ct", "coordX": x, "coordY": y, "coordZ": z, "diameter_mm": 12} for x, y, z in middles]
    record = only(listed(tmp_path / "images", boxes=str(ingest.csv(tmp_path / "boxes.csv", rows))))
    config = ingest.recipe("volumes", images=str(tmp_path / "images"), min_side=8)
    sample = sample_of(
        item := Item("key", "patient", "study", "split", record),
        read_input(item, recipe := Recipe.from_config(config)),
        recipe,
    )
    first, second = sample.row["boxes"]
    sides = [[box[side] for side in ("z", "y", "x", "d", "h", "w")] for box in (first, second)]
    wide, high, deep = 12 / 0.7, 12 / 0.8, 12 / 2
    np.testing.assert_allclose(
        sides,
        [
            [0, 59.5 - high / 2, 30.5 - wide / 2, 0.5 + deep / 2, 0.5 + high / 2, wide],
            [15.5 - deep / 2, 20.5 - high / 2, 0, 0.5 + deep / 2, high, 0.5 + wide / 2],
        ],
        atol=1e-4,
    )


def test_boxes_in_voxels_are_the_files_own(tmp_path: Path) -> None:
    """Voxels of a file stored in another order: the same voxels in the volume as it is read."""
    values = np.zeros((9, 12, 15), np.int16)  # x, y, z of the file
    values[2:4, 5:8, 10:14] = 700
    affine = np.array([[0, 0, -2.0, 5], [-0.7, 0, 0, 6], [0, 0.8, 0, 7], [0, 0, 0, 1]])
    nifti(tmp_path / "images/x.nii", values, affine)
    row = {"file": "x.nii", "label": "nodule", "z": 10, "y": 5, "x": 2, "d": 4, "h": 3, "w": 2}
    record = only(listed(tmp_path / "images", boxes=str(ingest.csv(tmp_path / "b.csv", [row]))))
    volume = read(record)
    (box,) = record.boxes
    sides = [(box.z, box.d), (box.y, box.h), (box.x, box.w)]
    inside = volume.voxels[tuple(slice(round(a), round(a + n)) for a, n in sides)]
    assert box.label == "nodule" and (inside == 700).all() and inside.size == 24


@pytest.mark.parametrize(
    "row, reported",
    [
        ({"file": "x.nii", "label": "a", "z": 1, "y": 1, "x": 1, "d": 1, "h": 1}, "no column 'w'"),
        ({"file": "x.nii", "label": "a", "z": 1, "y": 1, "x": 1, "d": 0, "h": 1, "w": 1}, "above 0"),
        ({"file": "x.nii", "label": "a", "z": 1, "y": "", "x": 1, "d": 1, "h": 1, "w": 1}, "is empty"),
        ({"file": "x.nii", "coordX": 1, "coordY": 1, "coordZ": 1, "diameter_mm": -3}, "diameter_mm"),
        ({"file": "gone.nii", "coordX": 1, "coordY": 1, "coordZ": 1, "diameter_mm": 3}, "none of the files"),
    ],
)
def test_boxes_that_make_no_sense_are_reported(tmp_path: Path, row: dict[str, Any], reported: str) -> None:
    nifti(tmp_path / "images/x.nii", make.smooth((9, 8, 7)))
    with pytest.raises(UserError, match=reported):
        listed(tmp_path / "images", boxes=str(ingest.csv(tmp_path / "b.csv", [row])))


def test_patients_of_volumes_are_read_from_paths(tmp_path: Path) -> None:
    make.series(tmp_path / "S07/ct", make.smooth((5, 8, 8)), SeriesInstanceUID="1.1", PatientID="X")
    nifti(tmp_path / "S08_t1.nii", make.smooth((8, 8, 5)))
    make.series(tmp_path / "other", make.smooth((5, 8, 8)), SeriesInstanceUID="1.2", PatientID="X")
    records = listed(tmp_path, patient_pattern="(S[0-9]+)")
    assert {name: record.patient for name, record in records.items()} == {
        "S07/ct 1.1": "S07", "S08_t1.nii": "S08", "other 1.2": None,
    }  # fmt: skip
    assert records["other 1.2"].rejected == "recipe.patient_pattern does not match its path"


def test_two_patients_under_one_uid_are_two_volumes(tmp_path: Path) -> None:
    """As in an archive whose pseudonymisation gave everybody the same SeriesInstanceUID."""
    values = make.smooth((6, 20, 24))
    make.series(tmp_path / "a", values, PatientID="A")
    make.series(tmp_path / "b", values, corner=(-20, -30, 52), PatientID="B")
    records = list(Volumes(images=str(tmp_path)).records(1))
    assert {record.patient: len(record.image.paths) for record in records} == {"A": 6, "B": 6}
    assert len({record.name for record in records}) == 2 and not any(record.rejected for record in records)
