"""Columns of several classes, from the table to the probe."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from archive import ingest
from PIL import Image

from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.label_columns import MOST_CLASSES, ClassColumns
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import DatasetError, UserError
from dira_scale.base.storage.tables import TableRow
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.probe.comparison import _tasks
from dira_scale.probe.probing import PARTS
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.merge import merge
from dira_scale.shard.curate.stats import Stats
from dira_scale.shard.curate.subset import SubsetPart, _matching, subset
from dira_scale.train.data.labelled import LabelledImages

KINDS = ("normal", "Pneumonia", "TB")
COLUMNS = {"file": "file", "patient": None, "study": None, "split": "split", "mask": None}


def rows(**columns: list[str]) -> list[TableRow]:
    return [
        TableRow(n, dict(zip(columns, cells, strict=True)))
        for n, cells in enumerate(zip(*columns.values(), strict=True))
    ]


@pytest.mark.parametrize(
    "cells, names",
    [
        (["2", "10", "", "0", " 2.0 "], ("0", "2", "10")),
        (["TB", "normal", "tb", "Pneumonia"], ("normal", "Pneumonia", "TB")),
        (["III", "I", "II", "x-ray"], ("I", "II", "III", "x-ray")),
        (["1.5", "1"], ("1", "1.5")),
        (["-1", "1", "0"], ("-1", "0", "1")),
    ],
)
def test_classes_are_the_values_in_ascending_order(cells: list[str], names: tuple[str, ...]) -> None:
    found = ClassColumns(["kind"], rows(kind=cells), "x.csv")
    assert found.names == {"kind": names}
    numbers = [found.number("kind", cell, "") for cell in cells]
    folded = [name.casefold() for name in names]
    for cell, number in zip(cells, numbers, strict=True):
        assert np.isnan(number) if not cell else folded[int(number)] in (cell.casefold(), cell.strip().split(".")[0])


def test_classes_in_an_order_of_one_s_own() -> None:
    found = ClassColumns({"stage": ["mild", "severe", "none"], "grade": None}, rows(grade=["1", "0"]), "x.csv")
    assert found.names == {"stage": ("mild", "severe", "none"), "grade": ("0", "1")}
    assert [found.number("stage", cell, "") for cell in ("none", "MILD")] == [2, 0]
    with pytest.raises(UserError, match=r"x.csv, line 3: 'sever' is not a class of class_columns; did you mean 'sev"):
        found.number("stage", "sever", "x.csv, line 3")


@pytest.mark.parametrize(
    "given, cells, words",
    [
        (["kind"], [str(n) for n in range(MOST_CLASSES + 1)], "column kind has more than 100 values"),
        (["kind"], ["a", "", "A"], r"kind has a: two .* needed; class_columns='{kind: \["),
        (["kind"], [""], "kind has no value: two different"),
        ({"kind": ["a", "b", "A"]}, [], "kind has a, b, A: two different"),
    ],
)  # fmt: skip
def test_columns_that_are_no_classes_are_refused(given: object, cells: list[str], words: str) -> None:
    with pytest.raises(UserError, match=f"^x.csv: column {words}" if words.startswith("kind") else words):
        ClassColumns(given, rows(kind=cells), "x.csv")  # type: ignore[arg-type]


def test_yes_and_no_that_yaml_reads_as_truth_values_are_refused() -> None:
    given = yaml.safe_load("{finding: [no, yes, unsure]}")
    with pytest.raises(ArgumentError, match=r"^class_columns.finding: expected classes in quotes, as"):
        ClassColumns(given, rows(finding=["no", "yes"]), "x.csv")
    given = yaml.safe_load("{finding: ['no', 'yes', unsure]}")
    assert ClassColumns(given, [], "x.csv").names == {"finding": ("no", "yes", "unsure")}


def test_a_subset_by_class_means_its_name_never_its_number() -> None:
    info = SimpleNamespace(label_names=["grade", "kind"], classes={"grade": ["1", "2", "3", "4"], "kind": [*KINDS]})
    labels = np.array([[0.0, 2.0], [1.0, 1.0], [2.0, 0.0], [3.0, math.nan]])
    index = SimpleNamespace(records=np.rec.fromarrays([labels], dtype=[("labels", float, 2)]))
    without = SimpleNamespace(batches=lambda _: iter(()))
    dataset: Any = SimpleNamespace(info=info, index=index, manifest=without)
    for where, kept in (
        ({"grade": 2}, [1]), ({"grade": 2.0}, [1]), ({"grade": [" 4", "1"]}, [0, 3]), ({"kind": "tb"}, [0]),
        ({"kind": ["NORMAL", "pneumonia"]}, [1, 2]),
    ):  # fmt: skip
        assert np.flatnonzero(_matching(dataset, where)).tolist() == kept
    for name, value, words in (
        ("grade", 0, "where.grade: no class '0'; use 1, 2, 3, 4"), ("grade", 2.5, "where.grade: no class '2.5'"),
        ("kind", "pneumona", "no class 'pneumona'; did you mean 'Pneumonia'"), ("kind", 1, "where.kind: no class '1'"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            _matching(dataset, {name: value})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """90 images whose brightness is their grade, of 60 to train; a column of each kind that tables have."""
    rng, made = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    for n in range(90):
        values = rng.normal(60 + 60 * (n % 3), 12, (40, 36)).clip(0, 255)
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"images/{n}.png")
        split = "train" if n < 60 else "val" if n < 75 else "test"
        bright, kind = ("Yes", "NO")[n % 3 == 0], KINDS[n % 3] if n % 5 < 4 else KINDS[n % 3].upper()
        made.append({"file": f"{n}.png", "split": split, "grade": n % 3 if n else "", "kind": kind, "bright": bright,
                     "sharp": ("positive", "Negative")[n % 2]})  # fmt: skip
    ingest.csv(tmp_path / "list.csv", made)
    return tmp_path


def recipe(folder: Path, **keys: object) -> dict:
    settings = {"images": str(folder / "images"), "labels": str(folder / "list.csv"), "columns": COLUMNS}
    config: dict = ingest.recipe("folder", **settings | keys)
    return config


def test_grades_and_diagnoses_reach_the_torch_dataset_and_the_probe(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    out = folder / "out"
    config = recipe(folder, class_columns={"grade": None, "kind": ["TB", "normal", "pneumonia"]})
    convert(config, out, workers=1)
    assert "list.csv: labels are bright, sharp, grade, kind" in capsys.readouterr().out
    dataset = ShardedDataset.open(out)
    assert dataset.info.label_names == ["bright", "sharp", "grade", "kind"]
    assert dataset.info.classes == {"grade": ["0", "1", "2"], "kind": ["TB", "normal", "pneumonia"]}
    convert(config, out, workers=1)
    assert "out is complete" in capsys.readouterr().out

    images = LabelledImages(out, "train", label="kind")
    assert images.classes == ("TB", "normal", "pneumonia") and len(images) == 60
    grades = LabelledImages(out, "train", label="grade")
    seen = set()
    for (image, kind), (_, grade), (_, labels) in zip(images, grades, LabelledImages(out, "train"), strict=True):
        level = int(float(image.mean()) * 255 / 60 - 0.5)  # drawn around 60, 120, 180
        assert kind.dtype == grade.dtype and not kind.is_floating_point() and kind.ndim == 0
        assert KINDS[level].casefold() == images.classes[kind].casefold()
        assert int(grade) == (level if int(grade) >= 0 else LabelledImages.UNKNOWN)
        np.testing.assert_array_equal(labels[[0, 3]], [level > 0, int(kind)])
        seen.add(int(grade))
    assert seen == {0, 1, 2, LabelledImages.UNKNOWN}
    with pytest.raises(ArgumentError, match=r"^label: expected .* classes .*: it has grade, kind; did you me"):
        LabelledImages(out, "train", label="kin")

    assert str(Stats(dataset).labels["kind"][0]) == "TB: 20, normal: 20, pneumonia: 20"
    rows = {part: dataset.rows(part) for part in PARTS}
    (task,), left_out = _tasks(dataset, rows, ["grade", "bright"])
    assert task.names == ("grade: 0", "grade: 1", "grade: 2", "bright") and task.classes == {"grade": [0, 1, 2]}
    grades = dataset.labels(rows["test"])[:, 2].astype(int)
    np.testing.assert_array_equal(task.labels["test"][:, :3], np.eye(3)[grades])
    assert left_out == {} and np.isnan(task.labels["train"]).sum() == 3
    only = {part: rows[part][dataset.labels(rows[part])[:, 2] < 1.5] for part in PARTS}  # no image of grade 2
    (task,), left_out = _tasks(dataset, only, ["grade"])
    assert task.classes == {"grade": [0, 1]} and left_out == {"grade: 2": "one class only in train, val, test"}


def test_classes_survive_curation_and_are_not_mixed(folder: Path) -> None:
    for name, classes in (("a", ["kind"]), ("b", ["kind"]), ("other", {"kind": ["TB", "normal", "pneumonia"]})):
        keys = {"name": name, "archive": name, "class_columns": classes}
        convert(recipe(folder, **keys), folder / name, workers=1)
    merged = merge([folder / "a", folder / "b"], folder / "both", "both")
    assert merged.classes == {"kind": list(KINDS)} and merged.counts["train"] == 120
    part = SubsetPart(fraction=1.0, seed=0, splits=(), where={"kind": "TB"}, folds=None, fold=0)
    assert subset(folder / "both", folder / "tb", part).counts == {"train": 40, "val": 10, "test": 10}
    with pytest.raises(UserError, match=r"label kind has the classes normal, Pneumonia, TB in .*a, but the classes T"):
        merge([folder / "a", folder / "other"], folder / "mixed", "mixed")


def test_one_label_of_classes_is_the_target_and_damaged_classes_are_refused(folder: Path) -> None:
    convert(recipe(folder, label_columns=[], class_columns="kind"), folder / "out", workers=1)
    images = LabelledImages(folder / "out", "test")
    assert images.label == "kind" and images.classes == KINDS and int(images[0][1]) in (0, 1, 2)
    file = folder / "out" / "dataset.json"
    content = json.loads(file.read_text())
    for wrong in ([], {"kid": ["a"]}, {"kind": "ab"}, {"kind": [1]}, {"kind": ["\x1b[2J"]}):
        file.write_text(json.dumps(content | {"classes": wrong}))
        with pytest.raises(DatasetError, match=r"damaged \(invalid (classes|text)\)"):
            ShardedDataset.open(folder / "out")


def test_a_column_is_labels_or_classes(folder: Path) -> None:
    for keys, words in (
        ({"label_columns": ["grade"], "class_columns": ["grade"]}, "class_columns=grade: expected columns that"),
        ({"class_columns": ["sort"]}, "no column 'sort' .recipe.columns, label_columns, label_rules or class_columns"),
        (
            {"class_columns": ["kind"], "labels": None},
            "recipe.labels=null: expected a table, of which class_columns names columns",
        ),
    ):
        with pytest.raises(UserError, match=words):
            Recipe.from_config(recipe(folder, **keys)).make_source()
