"""The folder source: what it makes of CSV tables and DICOM headers."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from dira_scale.errors import UserError
from dira_scale.ingest.sources.base import Box, Record
from dira_scale.ingest.sources.folder import Folder

COLUMNS = {"file": "file", "patient": "patient", "mask": "mask"}


def listed(source: Folder) -> dict[str, Record]:
    return {record.name: record for record in source.records(workers=1)}


def test_csv_gives_patients_labels_and_masks(png_folder: Path) -> None:
    source = Folder(str(png_folder / "images"), str(png_folder / "labels.csv"), columns=COLUMNS)
    assert source.label_names == ("nodule", "mass")  # the columns of numbers
    records = listed(source)
    assert len(records) == 24
    assert records["im03.png"].patient == "P3" and records["im03.png"].labels == (1, 1)
    assert records["im04.png"].labels[0] == 0 and math.isnan(records["im04.png"].labels[1])
    assert records["im04.png"].mask == png_folder / "masks/m04.png" and records["im10.png"].mask is None


def test_files_may_be_relative_to_the_csv_too(png_folder: Path, ingest: SimpleNamespace) -> None:
    table = ingest.csv(png_folder / "list.csv", [{"image": f"images/im{n:02d}.png"} for n in range(24)])
    source = Folder(str(png_folder / "images"), str(table), columns={"file": "image"})
    assert set(listed(source)) == {f"im{n:02d}.png" for n in range(24)} and source.label_names == ()


def test_a_file_without_a_row_and_a_row_without_a_file_are_told(png_folder: Path) -> None:
    (png_folder / "images" / "notes.txt").write_text("hello")
    (png_folder / "images" / ".hidden").write_text("hello")
    (png_folder / "images" / "im00.png").unlink()
    records = listed(Folder(str(png_folder / "images"), str(png_folder / "labels.csv"), columns=COLUMNS))
    assert records["notes.txt"].rejected == "no row in the CSV of labels"
    assert ".hidden" not in records
    assert not records["im00.png"].rejected and not records["im00.png"].image.exists()  # reading it says so


def test_label_rules_make_labels_from_categories(png_folder: Path, ingest: SimpleNamespace) -> None:
    kinds = ["NORMAL", "PNEUMONIA", ""]
    rows = [{"file": f"im{n:02d}.png", "kind": kinds[n], "age": 50} for n in range(3)]
    table = ingest.csv(png_folder / "kinds.csv", rows)
    source = Folder(
        str(png_folder / "images"), str(table), columns={"file": "file"}, attributes=["age"],
        label_rules={"pneumonia": {"kind": "PNEUMONIA"}},
    )  # fmt: skip
    records = listed(source)
    assert source.label_names == ("pneumonia",)
    assert records["im00.png"].labels == (0,) and records["im01.png"].labels == (1,)
    assert math.isnan(records["im02.png"].labels[0]) and records["im02.png"].attributes == {"age": "50"}


def test_boxes_by_file(png_folder: Path, ingest: SimpleNamespace) -> None:
    rows = [{"file": "im01.png", "label": "mass", "y": 1, "x": 2, "h": 3.5, "w": 4}] * 2
    boxes = ingest.csv(png_folder / "boxes.csv", rows)
    records = listed(Folder(str(png_folder / "images"), boxes=str(boxes)))
    assert records["im01.png"].boxes == (Box("mass", 1, 2, 3.5, 4),) * 2 and records["im02.png"].boxes == ()


def test_paths_may_be_relative_to_where_one_is(
    png_folder: Path, ingest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest.csv(png_folder / "list.csv", [{"file": f"images/im{n:02d}.png"} for n in range(24)])
    ingest.csv(png_folder / "boxes.csv", [{"file": "images/im01.png", "label": "mass", "y": 1, "x": 2, "h": 3, "w": 4}])
    monkeypatch.chdir(png_folder.parent)
    columns = {"file": "file"}
    records = listed(Folder("source/images", str(png_folder / "list.csv"), "source/boxes.csv", columns=columns))
    assert len(records) == 24 and not any(record.rejected for record in records.values())
    assert records["im01.png"].boxes == (Box("mass", 1, 2, 3, 4),)


def test_dicom_headers_give_patient_study_and_attributes(tmp_path: Path, ingest: SimpleNamespace) -> None:
    pixels = np.zeros((40, 40), np.uint16)
    ingest.dicom(tmp_path / "a" / "1.dcm", pixels, PatientSex="F", PatientAge="081Y", ViewPosition="PA")
    ingest.dicom(tmp_path / "b" / "2.dcm", pixels, PatientID="other")
    records = listed(Folder(str(tmp_path), attributes=["age", "sex"]))
    assert records["a/1.dcm"].patient == ingest.identity["PatientID"] and records["b/2.dcm"].patient == "other"
    assert records["a/1.dcm"].study == ingest.identity["StudyInstanceUID"]
    assert records["a/1.dcm"].attributes == {"age": "081Y", "sex": "F"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"images": "absent"}, "recipe.images=.*absent: no such folder"),
        ({"labels": "absent.csv"}, "absent.csv: no such file"),
        ({"columns": {"file": "fiel"}}, "no column 'fiel'.*did you mean 'file'"),
        ({"columns": {"file": "file", "patient": "subject"}}, "no column 'subject'.*it has file, patient, nodule"),
        ({"columns": {"patient": "patient"}}, "recipe.columns.file must name"),
        ({"columns": {"flie": "file"}}, "recipe.columns has no 'flie'"),
        ({"label_columns": ["patient"]}, "'P0' is not a number"),
        ({"boxes": "boxes.csv"}, "boxes.csv: none of the files"),
    ],
)
def test_what_is_named_must_be_there(png_folder: Path, arguments: dict, words: str) -> None:
    given = {"images": "images", "labels": "labels.csv"} | arguments
    (png_folder / "boxes.csv").write_text("file,label,y,x,h,w\nelsewhere.png,mass,1,1,1,1\n")
    given |= {name: str(png_folder / given[name]) for name in ("images", "labels", "boxes") if name in given}
    with pytest.raises(UserError, match=words):
        listed(Folder(**{"columns": COLUMNS} | given))


def test_a_file_listed_twice_is_an_error_that_names_the_lines(png_folder: Path) -> None:
    table = png_folder / "labels.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[3] + "\n")
    with pytest.raises(UserError, match=r"lines 4 and 26 name the same file im02\.png"):
        Folder(str(png_folder / "images"), str(table), columns=COLUMNS)


def test_masks_and_lists_among_the_images_are_no_inputs(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "masks/a.png", "stray.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (40, 40)).save(tmp_path / name)
    (tmp_path / "list.csv").write_text("file,mask\na.png,masks/a.png\nb.png,\n")
    source = Folder(str(tmp_path), str(tmp_path / "list.csv"), columns={"file": "file", "mask": "mask"})
    assert {record.name: record.rejected is None for record in source.records(1)} == {
        "a.png": True,
        "b.png": True,
        "stray.png": False,
    }
