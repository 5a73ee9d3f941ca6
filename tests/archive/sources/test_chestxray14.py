"""ChestX-ray14: published lists, ages, and the real lists line by line."""

import csv
import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from archive.sources import miniatures
from needs import real_data

from dira_scale.archive.deidentify import coarse
from dira_scale.archive.sources import chestxray14
from dira_scale.archive.sources.chestxray14 import FINDINGS, ChestXray14
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main


def published(folder: Path, **lists: list[str]) -> Path:
    """A folder of lists as papers publish them: ``X_train_official.txt`` with 14 labels after each name."""
    folder.mkdir()
    for split, names in lists.items():
        miniatures.write_text(folder / f"X_{split}_official.txt", *(f"{name} {'0 ' * 14}".strip() for name in names))
    return folder


def test_published_lists_decide_the_splits(tmp_path: Path, shards: Callable, capsys: pytest.CaptureFixture) -> None:
    """Patient 1 has an image in each of two lists: counted, printed, stored, and named by the audit."""
    images = tmp_path / "cxr"
    miniatures.chestxray14(images)
    train = ["00000001_000.png", "00000003_000.png"]  # the latter is an official test image
    lists = published(tmp_path / "lists", train=train, val=["00000001_001.png", "00000006_000.png"])
    (images / "test_list.txt").write_text("00000004_000.png\n")
    made = shards("chestxray14", images=images, lists=lists)
    assert {name: made.row(name)["split"] for name in [*train, "00000001_001.png", "00000004_000.png"]} == {
        "00000001_000.png": "train", "00000003_000.png": "train", "00000001_001.png": "val", "00000004_000.png": "test",
    }  # fmt: skip
    assert made.labels("00000003_000.png")["Hernia"] == 1  # the table's, not the list's 0
    assert made.rejected("00000002_000.png", "00000005_000.png", "00000006_000.png", "00000009_000.png") == {
        "00000002_000.png": "not in the lists of recipe.lists",
        "00000005_000.png": "not in the lists of recipe.lists",
        "00000006_000.png": "listed, but missing",
        "00000009_000.png": "not in the table of findings",
    }
    info = made.dataset.info
    sums = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in lists.iterdir()}
    assert info.recipe["lists"]["train"] == sums[lists / "X_train_official.txt"]
    assert info.recipe["lists"]["val"] == sums[lists / "X_val_official.txt"]
    assert str(lists) not in (made.dataset.root / "dataset.json").read_text()
    assert info.patients_in_two_splits == 1
    printed = capsys.readouterr().out
    assert "patients in two splits: 1" in printed and "the lists have 1 patient in two splits" in printed
    assert sums[lists / "X_val_official.txt"][:12] in printed
    assert main(["audit", f"path={made.dataset.root}", "near_duplicates=false", "workers=1"]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"patients in two splits: 1\n  \S+ train and \S+ val: 1 x\nsplits: published lists", printed)
    main(["subset", f"path={made.dataset.root}", f"out={tmp_path / 'part'}", "where={split: [val, test]}"])
    part = ShardedDataset.open(tmp_path / "part").info
    assert part.patients_in_two_splits == 0 and part.published_lists == info.published_lists


@pytest.mark.parametrize(
    "file, content, words",
    [
        ("X_val_official.txt", None, "lists: expected a folder with a text file that is named after val"),
        ("val.txt", "00000002_000.png", "expected one list for val, not X_val_official.txt and val.txt"),
        ("X_val_official.txt", "00000002_000.png" + " 0" * 13, "14 labels, each 0 or 1; got 13 after 00000002_000.png"),
        ("X_val_official.txt", "00000002_000.png" + " 2" * 14, "14 labels, each 0 or 1; got 14 after 00000002_000.png"),
        ("X_val_official.txt", "00000077_000.png", "00000077_000.png is not an image of this dataset"),
        ("X_val_official.txt", "00000001_000.png", "00000001_000.png is also in X_train_official.txt"),
        ("X_val_official.txt", "00000002_000.png\n" * 2, "00000002_000.png is twice in this list"),
    ],
)
def test_published_lists_that_are_wrong_are_named(tmp_path: Path, file: str, content: str | None, words: str) -> None:
    miniatures.chestxray14(tmp_path / "cxr")
    lists = published(tmp_path / "lists", train=["00000001_000.png"], val=["00000002_000.png"])
    (lists / file).unlink() if content is None else (lists / file).write_text(content)
    with pytest.raises((UserError, ArgumentError), match=words):
        list(ChestXray14(str(tmp_path / "cxr"), str(lists)).records(1))


@pytest.mark.data
@pytest.mark.system  # the layout's own tests are of the default tier
def test_the_real_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 112,120 lines, as if the images were there: counts as published, and every line against a plain reading."""
    lists = real_data("chestxray14_lists")
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt"):
        miniatures.unpacked(lists / f"{name}.gz", tmp_path / name)
    with (tmp_path / "Data_Entry_2017_v2020.csv").open() as file:
        plain = {row["Image Index"]: row for row in csv.DictReader(file)}
    paths = [tmp_path / "images" / name for name in plain]
    monkeypatch.setattr(chestxray14, "files_ending", lambda root, ending: paths)
    monkeypatch.setattr("dira_scale.archive.sources.published.with_size", lambda record: record)
    counts, splits, people, boxes, records = Counter(), Counter(), {}, Counter(), 0
    for record in ChestXray14(str(tmp_path), attributes=["sex", "age", "view"]).records(2):
        row, records = plain[record.name], records + 1
        assert record.rejected is None and not any(map(math.isnan, record.labels))
        reported = {finding for finding, value in zip(FINDINGS, record.labels, strict=True) if value}
        assert reported == set(row["Finding Labels"].split("|")) - {"No Finding"}
        age, sex, view = row["Patient Age"], row["Patient Gender"], row["View Position"]
        assert record.attributes == {"age": age, "sex": sex, "view": view} and record.patient == row["Patient ID"]
        counts.update(reported or {"No Finding"})
        splits[record.split] += 1
        people.setdefault(record.patient, set()).add(record.split)
        boxes.update(box.label for box in record.boxes)
        assert all(0 <= b.y < b.y + b.h <= 1024 and 0 <= b.x < b.x + b.w <= 1024 for b in record.boxes)
        assert not record.boxes or record.split == "test"
    assert records == 112120 and splits == {"train_val": 86524, "test": 25596}
    assert len(people) == 30805 and all(len(of) == 1 for of in people.values())
    assert counts == {  # Wang et al., and NIH's own page for the release of 2020
        "No Finding": 60361, "Infiltration": 19894, "Effusion": 13317, "Atelectasis": 11559, "Nodule": 6331,
        "Mass": 5782, "Pneumothorax": 5302, "Consolidation": 4667, "Pleural_Thickening": 3385, "Cardiomegaly": 2776,
        "Emphysema": 2516, "Edema": 2303, "Fibrosis": 1686, "Pneumonia": 1431, "Hernia": 227,
    }  # fmt: skip
    assert boxes.total() == 984 and boxes == {
        "Atelectasis": 180, "Effusion": 153, "Cardiomegaly": 146, "Infiltration": 123, "Pneumonia": 120,
        "Pneumothorax": 98, "Mass": 85, "Nodule": 79,
    }  # fmt: skip


@pytest.mark.parametrize(
    "age, kept",
    [
        ("058Y", "58"), ("013M", "1"), ("090W", "1"), ("155", None), ("999M", "83"), ("", None), ("²", None),
        ("-5", None), ("58.5", None), ("00058", None),
    ],
)  # fmt: skip
def test_an_age_is_years_or_none(age: str, kept: str | None) -> None:
    assert coarse({"age": chestxray14._age(age)}) == ({"age": kept} if kept else {})
