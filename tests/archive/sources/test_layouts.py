"""Each published layout on its way into shards: pixels, masks, labels, attributes, splits and reasons; wrong lists."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive.sources.layouts import FOMO60K, FOMO300K, LAYOUTS, config, listed, made
from upath import UPath

from dira_scale.archive.plan import Item
from dira_scale.archive.reading import QuarantinedError, read_input
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sample import sample_of
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.shard.convert import convert

OPENMIND, FILM = list(LAYOUTS["openmind"].rows), "train/patient00002/study{}.jpg"
# Two records of each layout, and whether they are of one patient.
PATIENTS: dict[str, list[tuple[str, str, bool]]] = {
    "chestxray14": [("00000001_000.png", "00000001_001.png", True)],
    "chexpert": [(FILM.format("2/view1_frontal"), FILM.format("1/view2_lateral"), True)],
    "lidc_idri": [("1.3.6.101", "1.3.6.102", True)],
    "siim_acr": [("1.2.276.1", "1.2.276.2", False)],
    "jsrt": [("JPCLN001.IMG", "JPCLN154.IMG", False)],
    "medmnist": [("set/train/0", "set/train/1", False)],
    "bids": [("sub-02/ses-a", "sub-02/ses-b", True)],
    "mimic_cxr": [("a-1", "b-1", False)],
    "padchest": [("0", "2", False)],
    "rsna_pneumonia": [("a", "b", True)],
    "openmind": [(OPENMIND[0], OPENMIND[1], True), (OPENMIND[0], OPENMIND[2], False)],
    "fomo60k": [(*FOMO60K[1:3], True), (FOMO60K[0], FOMO60K[3], False)],
    "fomo300k": [(*FOMO300K[1:], False)],
    "ct_rate": [("train_1_a_1", "valid_7_a_1", False)],
    "ham10000": [("ISIC_0027419", "ISIC_0025030", True)],
    "eyepacs": [("10_left", "10_right", True)],
    "kvasir": [("polyps/6a.jpg", "esophagitis/2a.jpg", False)],
    "cityscapes": [("aachen_000000_000019", "aachen_000001_000019", True)],
}


ROOTS: dict[str, Path] = {}  # of miniatures that are left as they were made


# Their sources have other layouts, too.
AGAIN = {"shenzhen_original", "ham10000", "kvasir", "eyepacs", "patchcamelyon", "pe_cad", "kits", "abdomenatlas",
         "flare", "fomo60k", "fomo300k"}  # fmt: skip
ARRIVING = [
    pytest.param(name, marks=[pytest.mark.system] if name in AGAIN else [])
    for name, layout in LAYOUTS.items() if layout.rows
]  # fmt: skip


@pytest.mark.parametrize("name", ARRIVING)
def test_a_layout_arrives(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, opened: Callable
) -> None:
    root, out = tmp_path_factory.mktemp("layout"), tmp_path / "out"
    layout, stored, ROOTS[name] = LAYOUTS[name], made(name, root), root
    convert(config(name, root), out, workers=1)
    dataset = opened(out)
    assert set(stored) == set(layout.rows) and len(dataset) == len(stored)
    for record, (pixels, mask) in stored.items():
        np.testing.assert_array_equal(dataset.pixels(record), pixels, err_msg=record)
        np.testing.assert_array_equal(dataset.mask(record), mask, err_msg=record)  # type: ignore[arg-type]
        expected, row = layout.rows[record], dataset.row(record)
        known = {label: value for label, value in dataset.labels(record).items() if not math.isnan(value)}
        assert (known, dataset.attributes(record)) == (expected.labels, expected.attributes), record
        for box, (label, *sides) in zip(dataset.boxes(record), expected.boxes, strict=True):
            assert box == (label, *(pytest.approx(side, rel=1e-5, abs=1e-3) for side in sides)), record
        for column, value in layout.columns.items():
            assert row[column] == pytest.approx(value), (record, column)
        assert row["split"] == expected.split if expected.split else row["split"] in ("train", "val", "test")
    assert dataset.rejected(*layout.rejected) == layout.rejected
    for one, other, same in PATIENTS.get(name, ()):
        first, second = dataset.row(one), dataset.row(other)
        assert (first["patient"] == second["patient"]) == same and first["study"] != second["study"]


def reported(recipe: Recipe) -> dict[str, tuple]:
    """All that a record says but for where its files lie, and the sample that becomes of it."""
    records = {}
    for r in recipe.make_source().records(2):
        read: object = None
        if r.rejected is None:
            try:
                read = sample_of(item := Item("key", "patient", "study", "split", r), read_input(item, recipe), recipe)
            except QuarantinedError as error:
                read = error
        printed = repr((r.patient, r.study, r.labels, r.boxes, r.split, r.attributes))  # NaN is not equal to NaN
        records[r.name] = (printed, r.size, r.rejected, repr(read))
    return records


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.torture] if name in AGAIN else []) for name in LAYOUTS if "," not in name],
)
def test_a_store_gives_what_a_folder_gives(name: str, tmp_path: Path) -> None:
    if (folder := ROOTS.get(name, tmp_path)) == tmp_path:
        made(name, tmp_path)
    root = UPath(f"memory://{name}-{id(tmp_path)}")
    for path in folder.rglob("*"):
        if path.is_file():
            target = root / path.relative_to(folder).as_posix()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    here, there = (reported(Recipe.from_config(config(name, location))) for location in (folder, root))
    assert there == here and any(rejected is None for _, _, rejected, _ in here.values())


NUMBER = "is not a number"
LISTS: list[tuple[str, dict[str, Any], str, str, str | None, str]] = [  # layout, keys, file, old, new, the error
    ("chestxray14", {}, "Data_Entry_2017_v2020.csv", "", None,
     "expected the downloaded folder, with Data_Entry_2017_v2020.csv or Data"),
    ("chestxray14", {}, "Data_Entry_2017_v2020.csv", "Mass", "Masses",
     "line 7: 'Masses' is not one of the 14 findings; did you mean"),
    ("chestxray14", {}, "Data_Entry_2017_v2020.csv", "00000004_000", "00000003_000",
     "line 6: a second line for 00000003_000.png"),
    ("chestxray14", {}, "BBox_List_2017.csv", "20.25", "twenty", f"BBox_List_2017.csv, line 2: 'twenty' {NUMBER}"),
    ("chestxray14", {}, "test_list.txt", "00000004_000", "00000001_000", "00000001_000.png is in both official lists"),
    ("chexpert", {}, "train.csv", "AP/PA", "View", "train.csv has no column 'AP/PA'"),
    ("chexpert", {}, "train.csv", ",68,Frontal,AP,1.0", ",68,Frontal,AP,2.0",
     "line 2: No Finding: expected 1, 0 or -1, got 2"),
    ("chexpert", {}, "train.csv", "train/patient00001", "../patient00001", "expected CheXpert-v1.0"),
    ("mimic_cxr", {"tables": "{root}/files"}, "", "", "",
     r"recipe\.tables=.*files: expected the downloaded folder, with mimic-cxr-2"),
    ("padchest", {"findings": ["pleural efusion"]}, "", "", "", "that some image has; did you mean 'pleural eff"),
    ("vindr_cxr", {"readers": 4}, "", "", "", r"recipe.readers=4: expected 1 to 3"),
    ("rsna_pneumonia", {}, "pneumonia-challenge-dataset-mappings_2018.json", '"img_id"', '"id"',
     r"not the challenge's mapping \(KeyError"),
    ("ct_rate", {}, "train_fixed valid_fixed", "", None, "expected a folder that has one named train_fixed"),
    ("ct_rate", {}, "multi_abnormality_labels/train_predicted_labels.csv", "train_1_a_2", "../a",
     r"got '\.\./a\.nii\.gz'"),
    ("totalsegmentator", {"structures": ["liver", "liver"]}, "", "", "", "recipe.structures: expected 1 to 255 diff"),
    ("totalsegmentator", {"image": "mri.nii.gz"}, "", "", "",
     r"sequences\.image: expected .*; there is meta\.csv"),
    ("acdc", {}, "training/patient001/Info.cfg", "ES: 12", "ES: late",
     r"Info\.cfg: ES: expected the number of a frame"),
    ("acdc", {}, "training/patient001/Info.cfg", "DCM", "DMC", r"Info\.cfg: Group: 'DMC' is none of NOR, MINF"),
    ("montgomery", {"masks": ["mask"]}, "", "", "", "recipe.images=.*: expected a folder that has one named mask"),
    ("jsrt", {"structures": ["ribs"]}, "", "", "",
     r"recipe.structures=ribs: expected some of lungs, heart, clavicles"),
    ("jsrt", {}, "JSRT/Clinical_Information/CLNDAT_EN.txt", "malignant", "unclear",
     r"malformed line for JPCLN001\.IMG"),
    ("medmnist", {"classes": ["a", "b"]}, "", "", "", r"recipe.classes=\[a, b\]: expected 1, as .*set.npz"),
    ("isic2019", {}, "ISIC_2019_Training_Metadata.csv", "lesion_id", "lesion", "tables with a column lesion_id"),
    ("isic2019", {}, "ISIC_2019_Training_GroundTruth.csv", "ISIC_0073254", "ISIC_0000000",
     "line 4: two lines of ISIC_0000000"),
    ("eyepacs", {}, "trainLabels.csv", "13_left,2", "13_left,9", "13_left: '9' is not a class"),
    ("kvasir", {"class_columns": {"class": ["polyps", "others"]}}, "", "", "",
     r"is not a class of class_columns"),
    ("class_folders", {}, "test", "", None, "expected a folder with one for each class, not pictures in 1"),
    ("imagenet", {}, "val", "", None, "expected a folder that has one named val"),
    ("imagenet", {}, "train/n01440764", "", None, "expected a folder for each synset in train, not 1"),
    ("imagenet, ILSVRC2012_validation_ground_truth.txt", {}, "data/meta.mat", "", None,
     r"recipe.truth.*: expected the downloaded folder, with meta\.mat"),
    ("imagenet, ILSVRC2012_validation_ground_truth.txt", {"truth": "{root}/data/here/truth.txt"}, "", "", "",
     r"here/meta\.mat: not the development kit's table of synsets"),
    ("imagenet, ILSVRC2012_validation_ground_truth.txt", {}, "data/ILSVRC2012_validation_ground_truth.txt", "2", "7",
     "ground_truth.txt: '7' is no synset's number in meta.mat"),
    ("cityscapes", {}, "gtFine", "", None, "expected a folder that has one named gtFine"),
    ("luna16", {}, "subset0 subset5 subset9", "", None, "expected a folder with some of subset0, subset1"),
    ("luna16", {}, "annotations.csv", ",1,2,3,5.5", ",1,nan,3,5.5", f"line 2: 'nan' {NUMBER}"),
    ("lidc_idri", {}, "0.xml 1.xml LIDC-IDRI-0001/1.2.5/071.xml", "", None, "expected a folder with XML f"),
    ("lits", {"images": "{root}/LITS-Challenge-Test-Data"}, "LITS-Challenge-Test-Data/test-volume-3.nii", "", None,
     r"expected a folder with volume-N\.nii, at any depth"),
    ("lits", {"ranges": {"train": [0, 99], "val": [99, 114]}}, "", "", "", "recipe.ranges=.*: expected ranges that do"),
    ("brats", {"modalities": ["flare"]}, "", "", "",
     r"recipe\.modalities=\[flare\]: expected one or several of flair, t1, t1ce, t2"),
    ("sequences", {"sequences": {"T1": "*_t1.nii*", "T2": "*_t2.nii*"}}, "", "", "",
     r"sequences\.T2: expected a pattern that .*; there is c_seg\.nii"),
    ("sequences", {"sequences": ["T1"]}, "", "", "", r"recipe\.sequences=\[T1\]: expected a pattern for each"),
    ("sequences", {"series": {"T1": "*t1*"}}, "", "", "", "recipe.sequences.*: expected one of sequences"),
    ("sequences", {"split_sequences": True}, "", "", "", r"recipe.mask=.*: expected null with split_sequences"),
    ("bids", {}, "participants.tsv", "61.5", "old", "participants.tsv, line 2, age: 'old' is not a number"),
    ("msd", {}, "dataset.json", '"name"', "name", r"dataset\.json: not the decathlon's list \(JSONDecodeError"),
    ("msd", {}, "dataset.json", "./imagesTr/prostate_01", "../../x", "which is outside its folder"),
    ("msd", {}, "dataset.json", "./imagesTr/prostate_01", "./imagesTr/", "'./imagesTr/.nii.gz', which is no name"),
]  # fmt: skip


@pytest.mark.parametrize("name, keys, files, old, new, words", LISTS)
def test_lists_that_are_wrong_are_named(
    name: str, keys: dict, files: str, old: str, new: str | None, words: str, tmp_path: Path
) -> None:
    """``new=None``: ``files`` are not there."""
    made(name, tmp_path)
    for path in (tmp_path / file for file in files.split()):
        if new is not None:
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises((UserError, ArgumentError), match=words):
        listed(name, tmp_path, **keys)
