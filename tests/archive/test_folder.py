"""The folder source: what it makes of CSV tables and DICOM headers."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive import ingest
from PIL import Image

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.folder import Folder
from dira_scale.archive.sources.split_lists import is_mask
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError

REFUSED = UserError, ArgumentError

COLUMNS = {"file": "file", "patient": "patient", "mask": "mask"}


def listed(source: Folder, workers: int = 1) -> dict[str, SourceRecord]:
    return {record.name: record for record in source.records(workers)}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["im00", "im01"], "none of its 2 files exists. 'im00' was looked for in .*: append .png to the names"),
        (["x.png"], "none of its 1 files exists. 'x.png' was looked for in .*images and beside the table; there is im"),
    ],
)
def test_a_table_that_names_no_file_is_an_error(png_folder: Path, names: list[str], words: str) -> None:
    table = ingest.csv(png_folder / "list.csv", [{"image": name} for name in names])
    with pytest.raises(REFUSED, match=words):
        Folder(str(png_folder / "images"), str(table), columns={"file": "image"})


def test_label_rules_make_labels_from_categories(png_folder: Path) -> None:
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


def test_paths_may_be_relative_to_where_one_is(png_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest.csv(png_folder / "list.csv", [{"file": f"images/im{n:02d}.png"} for n in range(24)])
    ingest.csv(png_folder / "boxes.csv", [{"file": "images/im01.png", "label": "mass", "y": 1, "x": 2, "h": 3, "w": 4}])
    monkeypatch.chdir(png_folder.parent)
    columns = {"file": "file"}
    records = listed(Folder("source/images", str(png_folder / "list.csv"), "source/boxes.csv", columns=columns))
    assert len(records) == 24 and not any(record.rejected for record in records.values())
    assert records["im01.png"].boxes == (Box("mass", 1, 2, 3, 4),)


def test_dicom_headers_give_patient_study_and_attributes(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40), np.uint16)
    ingest.dicom(tmp_path / "a" / "1.dcm", pixels, PatientSex="F", PatientAge="081Y", ViewPosition="PA")
    ingest.dicom(tmp_path / "b" / "2.dcm", pixels, PatientID="other")
    records = listed(Folder(str(tmp_path), attributes=["age", "sex"]))
    assert records["a/1.dcm"].patient == ingest.IDENTITY["PatientID"] and records["b/2.dcm"].patient == "other"
    assert records["a/1.dcm"].study == ingest.IDENTITY["StudyInstanceUID"]
    assert records["a/1.dcm"].attributes == {"age": "081Y", "sex": "F"}


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"images": "absent"}, "recipe.images=.*absent: no such folder"),
        ({"images": "labels.csv"}, "recipe.images=.*labels.csv: a file; name the folder that it is in"),
        ({"labels": "absent.csv"}, "absent.csv: no such file"),
        ({"labels": "."}, "is a folder: name the table in it"),
        ({"labels": ""}, "labels: expected a table, of which columns.mask names columns"),
        ({"columns": {"file": "fiel"}}, "no column 'fiel'.*did you mean 'file'.*recipe.columns.file=COLUMN names it$"),
        ({"columns": {"file": "file", "patient": "who"}}, "'who' .*recipe.columns.patient=null if there is none$"),
        ({"columns": {"patient": "patient"}}, "columns.file: expected the column"),
        ({"columns": {"flie": "file"}}, "columns: expected keys of .*, got 'flie'"),
        ({"label_columns": ["patient"]}, "'P0' is not a number"),
        ({"label_columns": ["size"]}, "labels.csv, line 2, size: 'inf' is not a number"),
        ({"boxes": "boxes.csv"}, "boxes.csv: none of the files"),
    ],
)
def test_what_is_named_must_be_there(png_folder: Path, arguments: dict, words: str) -> None:
    given = {"images": "images", "labels": "labels.csv"} | arguments
    (png_folder / "boxes.csv").write_text("file,label,y,x,h,w\nelsewhere.png,mass,1,1,1,1\n")
    head, *lines = (png_folder / "labels.csv").read_text().splitlines()
    (png_folder / "labels.csv").write_text("\n".join([f"{head},size", *(f"{line},inf" for line in lines)]))
    given |= {name: str(png_folder / given[name]) for name in ("images", "labels", "boxes") if given.get(name)}
    with pytest.raises(REFUSED, match=words):
        listed(Folder(**{"columns": COLUMNS} | given))


@pytest.mark.parametrize(
    ("lesion", "lesions"), [("2,3", "3"), ("E1", "3"), ("Irrelevant", "3"), ("1", "2.5"), ("1", "1000")]
)
def test_a_lesion_that_would_be_dropped_is_an_error(png_folder: Path, lesion: str, lesions: str) -> None:
    """Its candidate would count as a false positive. Empty cells, and 1.0 as pandas writes it, are right."""
    table = png_folder / "lesions.csv"
    lines = ["file;patient;lesion;lesions", "im00.png;a;;", "im01.png;a;1.0;2.0", f"im02.png;a;{lesion};{lesions}"]
    table.write_text("\n".join(lines))
    keys = {"columns": {"file": "file", "patient": "patient"}, "label_columns": []}
    Folder(str(png_folder / "images"), str(table), **keys)
    named = f"lesions.csv, line 4, lesions?: '({re.escape(lesion)}|{re.escape(lesions)})' is not "
    with pytest.raises(REFUSED, match=named):
        Folder(str(png_folder / "images"), str(table), attributes=["lesion", "lesions"], **keys)


def test_rows_that_repeat_another_word_for_word_count_once(png_folder: Path, capsys: pytest.CaptureFixture) -> None:
    table, once = png_folder / "labels.csv", listed(Folder(**given(png_folder)))
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, lines[3], lines[3], lines[7].replace(",", " ,")]) + "\n")
    assert repr(listed(Folder(**given(png_folder)))) == repr(once)
    assert "labels.csv: repeated rows, each counted once: 3" in capsys.readouterr().out


MASKS = ("nodule_mask/0.png", "Masks/0.png", "0_seg.png", "a/labelsTr/0.png", "0-mask.nii.gz")


def test_masks_among_the_images_are_pointed_at(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    others = ("unmasked/0.png", "0.seg.png", "masked/1.png", "segment.png")
    assert all(map(is_mask, MASKS)) and not any(map(is_mask, others))
    for name in ("0.png", *MASKS[:3]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(ingest.picture(0)).save(tmp_path / name)
    assert len(listed(Folder(str(tmp_path)))) == 4
    printed = capsys.readouterr().out
    assert "warning: 3 of the inputs are masks by their names, " in printed and "recipe.columns.mask" in printed
    table = ingest.csv(tmp_path / "x.csv", [{"file": "0.png", "patient": "P", "mask": "nodule_mask/0.png"}])
    records = listed(Folder(str(tmp_path), str(table), columns=COLUMNS))  # the others have no row
    assert records.keys() == {"0.png"}  # neither masks nor the list is an input
    printed = capsys.readouterr().out
    assert "not used: 2 x not in x.csv (" in printed and "masks by their names" not in printed


def given(folder: Path) -> dict[str, Any]:
    return {"images": str(folder / "images"), "labels": str(folder / "labels.csv"), "columns": COLUMNS}


NAMED = ("P-01_a.png", "deep/P-01_b.png", "P-02.png", "other.png")


@pytest.mark.parametrize("pattern", [r"(P-[0-9]+)", r"^(?:.*/)?(P-\d\d)", r"(deep/)?(?P<patient>P-..)"])
def test_patients_are_read_from_paths(tmp_path: Path, pattern: str) -> None:
    """It finds patients of DICOM files, too, whose header names another; what does not match is rejected by name."""
    for number, name in enumerate(NAMED):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(ingest.picture(number)).save(tmp_path / name)
    ingest.dicom(tmp_path / "P-02.dcm", np.zeros((40, 40), np.uint16))
    records = listed(Folder(str(tmp_path), patient_pattern=pattern))
    patients = {name: (record.patient, record.rejected) for name, record in records.items()}
    assert patients.pop("other.png")[1] == "recipe.patient_pattern does not match its path"
    one, two = ("P-01", None), ("P-02", None)
    assert patients == {"P-01_a.png": one, "deep/P-01_b.png": one, "P-02.png": two, "P-02.dcm": two}
    assert records["P-02.dcm"].study


@pytest.mark.parametrize(
    "pattern, words",
    [
        ("P-[0-9]+", "expected the part that is the patient between .*it has no groups"),
        ("(P)-([0-9]+)", "it has 2 groups"),
        ("(P-", r"patient_pattern: expected a regular expression \(missing \)"),
        (7, "patient_pattern: expected a regular expression .*got 7"),
    ],
)
def test_a_pattern_without_a_patient_is_one_error(tmp_path: Path, pattern: str, words: str) -> None:
    with pytest.raises(REFUSED, match=words):
        Folder(str(tmp_path), patient_pattern=pattern)


def test_a_pattern_and_a_column_of_patients_exclude_each_other(png_folder: Path) -> None:
    with pytest.raises(REFUSED, match=r"patient_pattern: expected null, as columns.patient=patient names"):
        Folder(**given(png_folder), patient_pattern="(im0)")
    own = given(png_folder) | {"columns": {"file": "file", "mask": "mask"}}
    records = listed(Folder(**own, patient_pattern="im(.)"))
    assert {record.patient for record in records.values()} == {"0", "1", "2"}


def test_only_flags_are_taken_for_labels_and_other_numbers_are_named(
    png_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    row = {"nodule": 1, "mass": -1.0, "empty": "", "mrn": 7741903, "birth": 1932, "zip": 0.5, "sex": 1, "note": "x"}
    row["Mask"] = "m.png"
    rows = [{"file": f"im{n:02d}.png", "patient": n % 2} | row for n in range(3)]
    rows[1] |= {"nodule": "", "mass": 0, "mrn": 1, "zip": "", "birth": 0}
    table = ingest.csv(png_folder / "list.csv", rows)
    columns = {"file": "file", "patient": "patient"}
    source = Folder(str(png_folder / "images"), str(table), columns=columns)
    assert source.label_names == ("nodule", "mass")
    listed(source)
    printed = capsys.readouterr().out
    assert "list.csv: labels are nodule, mass\n" in printed
    for column in ("mrn", "birth", "zip"):
        assert f"list.csv: {column} is no label, as it has other numbers than 0, 1 and -1: recipe.class" in printed
    told = [line for line in printed.splitlines() if "Mask" in line or "sex" in line]  # once each, and how to use it
    assert told[0] == "list.csv: column Mask is not used; recipe.columns.mask=Mask uses it" and len(told) == 2
    assert told[1].startswith("list.csv: column sex is not used; recipe.attributes=[sex] keeps it")
    named = Folder(str(png_folder / "images"), str(table), columns=columns, label_columns=["zip"])
    assert listed(named)["im00.png"].labels == (0.5,)
    printed = capsys.readouterr().out
    assert "zip has other values than 0, 1 and -1: numbers for `probe` and `finetune task=regression`" in printed
    assert "For grades or classes use recipe.class_columns=[zip] instead of label_columns" in printed


def test_one_file_is_one_file_by_whatever_path(tmp_path: Path) -> None:
    """`images` is a symbolic link, cells have detours: each image still finds its row, its mask and its box."""
    store = tmp_path / "store"
    (store / "sub").mkdir(parents=True)
    for name in ("im0.png", "im1.png", "m0.png"):
        Image.fromarray(ingest.picture(0)).save(store / name)
    (tmp_path / "images").symlink_to(store)
    rows = [
        {"file": "sub/../im0.png", "patient": "P", "mask": f"{tmp_path}/images/m0.png"},
        {"file": f"{tmp_path}/images/im1.png", "patient": "P", "mask": "./m0.png"},
    ]
    table = ingest.csv(tmp_path / "list.csv", rows)
    box = {"file": "sub/../sub/../im1.png", "label": "a", "y": 1, "x": 1, "h": 2, "w": 2}
    boxes = ingest.csv(tmp_path / "boxes.csv", [box])
    records = listed(Folder(str(tmp_path / "images"), str(table), str(boxes), COLUMNS))
    assert set(records) == {"im0.png", "im1.png"} and len(records["im1.png"].boxes) == 1
    assert {(r.patient, r.rejected, r.mask) for r in records.values()} == {("P", None, store / "m0.png")}
    table.write_text("file,patient,mask\nim0.png,P,\nsub/../im0.png,Q,\n")
    with pytest.raises(REFUSED, match=r"lines 2 and 3 name the same file im0\.png and differ: keep one"):
        Folder(str(tmp_path / "images"), str(table), columns=COLUMNS)


def test_linked_folders_are_searched_once_and_loops_end(tmp_path: Path) -> None:
    for folder in ("images/a", "elsewhere"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(ingest.picture(0)).save(tmp_path / folder / "x.png")
    (tmp_path / "images" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "c").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "a" / "up").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "copy.png").symlink_to(tmp_path / "images" / "a" / "x.png")
    found = {record.name: record.image for record in Folder(str(tmp_path / "images")).records(workers=1)}
    assert set(found.values()) == {tmp_path / "images/a/x.png", tmp_path / "elsewhere/x.png"} and len(found) == 2


def test_studies_are_known_where_the_patient_is_not(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40), np.uint16)
    for number in range(3):
        ingest.dicom(tmp_path / f"{number}.dcm", pixels, PatientID=" ", StudyInstanceUID=f"1.{number // 2}")
    assert {(r.patient, r.study) for r in listed(Folder(str(tmp_path))).values()} == {(None, "1.0"), (None, "1.1")}
    table = ingest.csv(tmp_path / "list.csv", [{"file": f"{n}.dcm", "patient": "P" * n} for n in range(3)])
    records = listed(Folder(str(tmp_path), str(table), columns={"file": "file", "patient": "patient"}))
    reported = [(records[f"{n}.dcm"].patient, records[f"{n}.dcm"].rejected) for n in (0, 1)]
    assert reported == [(None, "no patient in the CSV"), ("P", None)]


def test_a_header_that_cannot_be_read_is_no_patient_of_its_own(tmp_path: Path) -> None:
    path = ingest.dicom(tmp_path / "1.dcm", np.zeros((40, 40), np.uint16))
    path.write_bytes(path.read_bytes()[:154])
    (record,) = Folder(str(tmp_path)).records(workers=1)
    assert record.rejected and record.rejected.startswith("DICOM header is damaged")
