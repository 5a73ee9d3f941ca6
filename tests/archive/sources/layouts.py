"""The published datasets as one table: how each miniature is made, and what a dataset of it must say."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from archive import ingest
from archive.sources import miniatures, miniatures_3d, miniatures_colour, miniatures_corpora

from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.chestxray14 import FINDINGS

GONE = "the file cannot be read (FileNotFoundError)"
ABSENT = "listed, but missing"
UNLISTED = "no line in the tables"
NO_SYNSET = "of no synset of train (recipe.truth names those of val)"
GREY = "grey (recipe.colour=any stores them in three channels, grey in one)"
RGB = {"channels": 3, "low": 0, "high": 255, "bits": 8}


class Row(NamedTuple):
    """A record's labels that are known, its attributes, its split where the source decides it, and its boxes."""

    labels: Mapping[str, float] = {}
    attributes: Mapping[str, str] = {}
    split: str | None = None
    boxes: Sequence[tuple[Any, ...]] = ()  # label, z, y, x, d, h, w


class Layout(NamedTuple):
    """``make(root)`` returns pixels and masks by record; ``{root}`` in the keys of the recipe is its folder."""

    make: Callable[..., miniatures.Stored]
    rows: Mapping[str, Row]
    rejected: Mapping[str, str] = {}
    keys: Mapping[str, Any] = {}
    images: str = "{root}"
    recipe: str | None = None  # that of its name in the table
    columns: Mapping[str, Any] = {}  # of the manifest, the same for all


def made(name: str, root: Path) -> miniatures.Stored:
    """The miniature ``name`` below ``root``."""
    return LAYOUTS[name].make(root)


def config(name: str, root: Path | str, **keys: Any) -> dict[str, Any]:
    """The keys of the recipe of ``name`` for a miniature in ``root``, a folder or a store."""
    layout = LAYOUTS[name]
    keys = {"images": layout.images} | dict(layout.keys) | keys
    filled = {key: value.format(root=root) if isinstance(value, str) else value for key, value in keys.items()}
    plain: dict[str, Any] = ingest.recipe(layout.recipe or name, **filled)
    return plain


def listed(name: str, root: Path, workers: int = 1, **keys: Any) -> list[Any]:
    """The records of the miniature in ``root``."""
    return list(Recipe.from_config(config(name, root, **keys)).make_source().records(workers))


def readings(root: Path) -> miniatures.Stored:
    """LIDC's, with one nodule of two readers in either series."""
    scans = miniatures_3d.lidc_idri(root)
    for n, uid in enumerate(scans):
        outline = (f"{uid}.3", True, miniatures_3d.walk(slice(3, 8), slice(4, 9)))
        miniatures_3d.readings(root / f"{n}.xml", uid, [[(3, [outline])], [(4, [outline])]])
    stored: miniatures.Stored = {}
    for n, (uid, values) in enumerate(scans.items()):
        mask = np.zeros(values.shape, np.uint8)
        mask[(3, slice(3, 8), slice(4, 9)) if n == 0 else (5, slice(3, 8), slice(35, 40))] = 1
        stored[uid] = values, mask
    return stored


def nodules(root: Path) -> miniatures.Stored:
    """Return the same with a block around each nodule."""
    blocks = {"1.3.6.101": np.s_[1:5, 1:9, 2:10], "1.3.6.102": np.s_[3:7, 1:9, 33:41]}
    return {f"{uid}/0": tuple(each[blocks[uid]] for each in both) for uid, both in readings(root).items()}


def _findings(*ones: str) -> dict[str, float]:
    return dict.fromkeys(FINDINGS, 0.0) | dict.fromkeys(ones, 1.0)


def _diagnosed(name: str) -> dict[str, float]:
    return {each: float(each == name) for each in ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")}


def _ball(middle: tuple[int, ...], diameter: float, spacing: tuple[float, ...], depth: int = 999) -> tuple[Any, ...]:
    """The box of a nodule around the middle of a voxel, cut at the last slice."""
    sides = np.array(diameter) / spacing
    first = np.array(middle) + 0.5 - sides / 2
    sides[0] = min(sides[0], depth - first[0])
    return "nodule", *first, *sides


CHEXPERT = {
    "train/patient00001/study1/view1_frontal.jpg": Row(
        {"No Finding": 1, "Pneumothorax": 0, "Support Devices": 1}, {"age": "68", "sex": "F", "view": "AP"}),
    "train/patient00002/study2/view1_frontal.jpg": Row(
        {"Cardiomegaly": -1, "Lung Opacity": 1, "Edema": -1, "Consolidation": -1, "Atelectasis": -1,
         "Pleural Effusion": -1, "Fracture": 1}, {"sex": "M", "view": "LL"}),
    "train/patient00002/study1/view2_lateral.jpg": Row({}, {"age": "90", "view": "LATERAL"}),
    "valid/patient64541/study1/view1_frontal.jpg": Row(
        {"No Finding": 0, "Enlarged Cardiomediastinum": 1, "Cardiomegaly": 1, "Lung Opacity": 1, "Lung Lesion": 0,
         "Edema": 0, "Consolidation": 0, "Pneumonia": 0, "Atelectasis": 0, "Pneumothorax": 0, "Pleural Effusion": 0,
         "Pleural Other": 0, "Fracture": 0, "Support Devices": 0}, {"age": "73", "sex": "M", "view": "AP"}, "test"),
}  # fmt: skip
NOT_CHEXPERT = {
    "train/patient00003/study1/view1_frontal.jpg": "no line in the tables",
    "train/patient00009/study1/view1_frontal.jpg": GONE,
}
PROSTATES = {"prostate_01": Row(), "prostate_04": Row(), "prostate_17": Row(), "prostate_03": Row(split="unlabelled")}
NOT_PROSTATES = {"prostate_99": GONE, "imagesTr/prostate_50.nii.gz": "not in dataset.json"}
BRATS = {
    "Brats18_TCIA01_1_1": Row({"high_grade": 1}), "Brats18_2013_0_1": Row({"high_grade": 0}),
    "BraTS20_Training_355": Row(),
}  # fmt: skip
MIMIC = {"Edema": -1, "Fracture": 0, "Pneumonia": 1}
MIMIC_CXR = {
    "a-1": Row(MIMIC, {"view": "PA"}, "train"), "a-2": Row(MIMIC, {"view": "PA"}, "train"), "b-1": Row({}, {}, "val"),
    "c-1": Row(dict.fromkeys(miniatures_corpora.FINDINGS, 0), {"view": "PA"}, "test"),
}  # fmt: skip
FOMO60K = (
    "sub_1/ses_1/t1.nii.gz",
    "sub_1/ses_1/t1_2.nii.gz",
    "sub_1/ses_2/flair.nii.gz",
    "PT015_NKI/sub_1/ses_1/t2.nii.gz",
)
FOMO300K = (
    "PT001_A/sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz",
    "PT030_OpenNeuro/ds1/sub-01/ses-01/dwi_bval0.nii.gz",
    "PT030_OpenNeuro/ds2/sub-01/anat/scan.nii.gz",
)
KITS, ATLAS = ("case_00000", "case_00001", "case_00210"), ("BDMAP_00000001", "BDMAP_00000002", "BDMAP_00000003")
FLARE = ("FLARE23_0001", "FLARE23_0002", "FLARE23_2000")
NO_CHEST = "not of the chest, by the dataset's list"
TEST_OF_VINDR = {"Cardiomegaly": 0, "Nodule/Mass": 1, "Other diseases": 1}
PATTERNS = {"T1": "*_t1.nii*", "FLAIR": "*_flair.nii*"}
SIDE = 15 / 0.175  # pixels of a nodule of 15 mm
SPLITS = {"train": 12, "val": 5, "test": 6}
LAYOUTS = {
    "chestxray14": Layout(
        miniatures.chestxray14,
        {
            "00000001_000.png": Row(_findings("Cardiomegaly"), {"age": "57", "sex": "M", "view": "PA"}),
            "00000001_001.png": Row(_findings("Cardiomegaly", "Emphysema"), {"age": "58", "sex": "M", "view": "PA"}),
            "00000002_000.png": Row(_findings(), {"sex": "F", "view": "AP"}),  # 414 years are none
            "00000003_000.png": Row(
                _findings("Hernia", "Pleural_Thickening", "Infiltration"), {"age": "81", "sex": "F", "view": "PA"},
                "test", [("Infiltration", 0, 20.25, 10.5, 1, 40, 30), ("Hernia", 0, 0, 0, 1, 80.5, 64)]),
            "00000004_000.png": Row(_findings(), {"age": "90", "sex": "M", "view": "AP"}, "test"),
        },
        {"00000005_000.png": "not in the official lists", "00000006_000.png": ABSENT,
         "00000009_000.png": "not in the table of findings"},
    ),
    "chexpert": Layout(miniatures.chexpert, CHEXPERT, NOT_CHEXPERT, {"codec": "png"}),
    "chexpert, full": Layout(
        partial(miniatures.chexpert, form="CheXpert-v1.0"), CHEXPERT, NOT_CHEXPERT, {"codec": "png"},
        recipe="chexpert"),
    "mimic_cxr": Layout(
        miniatures_corpora.mimic_cxr, MIMIC_CXR, {"gone": ABSENT, "none": UNLISTED}, {"codec": "png"}),
    "mimic_cxr, dicom": Layout(
        partial(miniatures_corpora.mimic_cxr, form="dcm"), MIMIC_CXR, {"gone": ABSENT, "none": UNLISTED},
        {"codec": "png", "tables": "{root}/tables"}, "{root}/files", recipe="mimic_cxr"),
    "padchest": Layout(
        miniatures_corpora.padchest,
        {
            "0": Row({"cardiomegaly": 1, "normal": 0, "pleural effusion": 1, "scoliosis": 0},
                     {"sex": "F", "view": "PA"}),
            "1": Row({"cardiomegaly": 0, "normal": 1, "pleural effusion": 0, "scoliosis": 0},
                     {"sex": "F", "view": "LATERAL", "age": "61"}),
            "2": Row({}, {"sex": "F", "view": "LATERAL", "age": "61"}),
            "3": Row({}, {"sex": "F", "view": "LATERAL", "age": "61"}),
            "4": Row({"cardiomegaly": 1, "normal": 0, "pleural effusion": 0, "scoliosis": 1},
                     {"sex": "F", "view": "LATERAL", "age": "61"}),
        },
        {"9": ABSENT, "unlisted": UNLISTED}, {"least": 1},
    ),
    "vindr_cxr": Layout(
        miniatures_corpora.vindr_cxr,
        {
            "a": Row({"Cardiomegaly": 1, "Nodule/Mass": 0, "Other diseases": 1}, {"age": "44", "sex": "M"}, None,
                     [("Cardiomegaly", 0, 10.5, 5, 1, 19.5, 10), ("Cardiomegaly", 0, 10, 6, 1, 20, 9)]),
            "b": Row(dict.fromkeys(TEST_OF_VINDR, 0), {"age": "44", "sex": "M"}),
            "t": Row(TEST_OF_VINDR, {"age": "44", "sex": "M"}, "test", [("Nodule/Mass", 0, 3, 2, 1, 6, 10)]),
        },
        {"gone": ABSENT, "other": UNLISTED},
    ),
    "rsna_pneumonia": Layout(
        miniatures_corpora.rsna_pneumonia,
        {
            "a": Row({"pneumonia": 1, "normal": 0}, {"age": "51", "sex": "F", "view": "AP"}, None,
                     [("pneumonia", 0, 6, 5, 1, 12, 10), ("pneumonia", 0, 8, 20, 1, 20, 9)]),
            "b": Row({"pneumonia": 0, "normal": 0}, {"age": "51", "sex": "F", "view": "AP"}),
            "c": Row({"pneumonia": 0, "normal": 1}, {"age": "51", "sex": "F", "view": "AP"}),
            "d": Row({}, {"age": "51", "sex": "F", "view": "AP"}),
        },
    ),
    "siim_acr": Layout(
        miniatures.siim_acr,
        {f"1.2.276.{n}": Row({"Pneumothorax": float(n < 3)}, {"age": "51", "sex": "F", "view": "PA"})
         for n in (1, 2, 3)},
        {"1.2.276.4": UNLISTED, "1.2.276.5": ABSENT},
    ),
    "montgomery": Layout(
        miniatures.montgomery,
        {
            "MCUCXR_0001_0.png": Row({"tuberculosis": 0}, {"age": "27", "sex": "F"}),
            "MCUCXR_0108_1.png": Row({"tuberculosis": 1}, {"age": "90", "sex": "M"}),
            "MCUCXR_0200_1.png": Row({"tuberculosis": 1}),
        },
        {"Thumbs.png": "not a file name of the dataset"},
    ),
    "shenzhen_original": Layout(
        miniatures.shenzhen,
        {
            "CHNCXR_0001_0.png": Row({"tuberculosis": 0}, {"age": "45", "sex": "M"}),
            "CHNCXR_0002_0.png": Row({"tuberculosis": 0}, {"age": "24", "sex": "F"}),
            "CHNCXR_0328_1.png": Row({"tuberculosis": 1}, {"age": "32", "sex": "F"}),
            "CHNCXR_0400_1.png": Row({"tuberculosis": 1}, {"age": "1", "sex": "M"}),
        },
        keys={"masks": ["mask"]},
    ),
    "jsrt": Layout(
        miniatures.jsrt,
        {
            "JPCLN001.IMG": Row({"nodule": 1, "malignant": 1}, {"age": "53", "sex": "M"}, None,
                                [("nodule", 0, 692.5 - SIDE / 2, 1634.5 - SIDE / 2, 1, SIDE, SIDE)]),
            # 20 mm around (30, 2040) reach over the left and the lower edge
            "JPCLN154.IMG": Row({"nodule": 1, "malignant": 0}, {"sex": "F"}, None,
                                [("nodule", 0, 2040.5 - 10 / 0.175, 0, 1, 7.5 + 10 / 0.175, 30.5 + 10 / 0.175)]),
            "JPCNN001.IMG": Row({"nodule": 0}, {"age": "37", "sex": "F"}),
        },
        {"JPCNN002.IMG": "not the 8388608 bytes of a JSRT image", "JPCNN003.IMG": ABSENT,
         "NonNodule93images/JPCNN099.IMG": "no line in the tables, or duplicate"},
        {"masks": "{root}/SCR"}, "{root}/JSRT",
        columns={"low": 0, "high": 4095, "bits": 16, "spacing": [0.175, 0.175]},
    ),
    "medmnist": Layout(
        miniatures.medmnist,
        {f"set/{split}/{n}": Row({"pneumonia": n % 2}, split=split) for split in SPLITS for n in range(SPLITS[split])},
        keys={"classes": ["pneumonia"]}, images="{root}/set.npz",
    ),
    "medmnist, colour": Layout(
        partial(miniatures.medmnist, colours=True, classes=3),
        {f"set/{split}/{n}": Row({"abc"[k]: float(n % 3 == k) for k in range(3)}, split=split)
         for split in SPLITS for n in range(SPLITS[split])},
        keys={"classes": ["a", "b", "c"], "colour": "rgb"}, images="{root}/set.npz", recipe="medmnist", columns=RGB,
    ),
    "ham10000": Layout(
        miniatures_colour.ham10000,
        {"ISIC_0027419": Row({"dx": 2}, {"age": "80", "sex": "M"}), "ISIC_0026769": Row({"dx": 4}),
         "ISIC_0025030": Row({"dx": 2}, {"age": "80", "sex": "M"})},
        {"ISIC_0026770": ABSENT, "masks/ISIC_0027419_segmentation.png": "no line in the tables"},
        {"codec": "png"}, columns=RGB,
    ),
    "isic2019": Layout(
        miniatures_colour.isic2019,
        {"ISIC_0000000": Row(_diagnosed("NV"), {"age": "55", "sex": "M"}),
         "ISIC_0000029_downsampled": Row(_diagnosed("MEL"))},
        {"ISIC_0073254": GREY}, {"codec": "png"}, columns=RGB,
    ),
    "kvasir": Layout(
        miniatures_colour.kvasir, {f"{name}/{n}a.jpg": Row({"class": n}) for n, name in
                                   enumerate(miniatures_colour.KVASIR)}, keys={"codec": "png"}, columns=RGB),
    "eyepacs": Layout(
        miniatures_colour.eyepacs, {"10_left": Row({"level": 0}), "10_right": Row({"level": 4}),
                                    "13_left": Row({"level": 2})},
        {"15_left": ABSENT, "test/1_left.jpeg": "no line in the tables"}, {"codec": "png"}, columns=RGB),
    "patchcamelyon": Layout(
        miniatures_colour.patchcamelyon,
        {"f38a6374c348f90b587e046aac6079959adf3835": Row({"label": 0}),
         "c18f2d887b7ae4f6742ee445113fa1aef383ed77": Row({"label": 1})}, columns=RGB),
    "imagenet": Layout(
        miniatures_colour.imagenet,
        {"train/n01440764/n01440764_10026.JPEG": Row({"class": 0}),
         "train/n01443537/n01443537_2.JPEG": Row({"class": 1}),
         "val/n01443537/ILSVRC2012_val_00000002.JPEG": Row({"class": 1}, split="test")},
        {"val/n99999999/ILSVRC2012_val_00000003.JPEG": NO_SYNSET}, {"codec": "png"}, columns=RGB),
    **{f"imagenet, {truth}": Layout(
        partial(miniatures_colour.imagenet, truth=truth),
        {"train/n01440764/n01440764_10026.JPEG": Row({"class": 0}),
         "train/n01443537/n01443537_2.JPEG": Row({"class": 1}),
         "val/ILSVRC2012_val_00000001.JPEG": Row({"class": 1}, split="test"),
         "val/ILSVRC2012_val_00000002.JPEG": Row({"class": 0}, split="test")},
        {"val/ILSVRC2012_val_00000003.JPEG": NO_SYNSET},
        {"codec": "png", "truth": f"{{root}}/data/{truth}"}, recipe="imagenet", columns=RGB)
       for truth in ("ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv")},
    "cityscapes": Layout(
        miniatures_colour.cityscapes,
        {"aachen_000000_000019": Row(split="train"), "aachen_000001_000019": Row(split="train"),
         "munster_000000_000019": Row(split="test"), "berlin_000000_000019": Row(split="unlabelled")},
        {"ulm_000000_000019": "no gtFine_labelIds.png", "lost": "not in SPLIT/CITY"}, columns=RGB),
    "class_folders": Layout(
        miniatures_colour.class_folders,
        {"train/benign/a.png": Row({"class": 0}), "train/benign/b.png": Row({"class": 0}),
         "test/malignant/a.tif": Row({"class": 1})},
        {"overview.png": "in no class's folder"}, {"secret": False}, columns=RGB),
    "luna16": Layout(
        miniatures_3d.luna16,
        {
            "1.3.6.1": Row({"nodule": 1}, split="train", boxes=[
                _ball((20, 24, 30), 9, (1.25, 0.75, 0.7)), _ball((39, 10, 12), 8, (1.25, 0.75, 0.7), depth=40)]),
            # y and x of the turned scan count from the other end
            "1.3.6.2": Row({"nodule": 1}, split="train", boxes=[_ball((5, 39, 15), 6.5, (2.5, 0.7, 0.7))]),
            "1.3.6.3": Row({"nodule": 0}, split="val"), "1.3.6.4": Row({"nodule": 0}, split="test"),
        },
        {"subset9/1.3.6.1.mhd": "a duplicate scan of this UID", "subset9/1.3.6.5.mhd": GONE},
        columns={"low": -1000, "high": 1000},
    ),
    "luna16_candidates": Layout(  # rows: test_luna16.py
        miniatures_3d.luna16_candidates, {}, keys={"negatives": None, "patch": [8, 8, 8]}),
    "pe_cad": Layout(
        miniatures_3d.pe_cad,
        {f"{scan}_{n}.npy": Row({"embolism": n < 2}, {"lesions": "2"} | ({"lesion": "1"} if n < 2 else {}), split)
         for scan, split in enumerate(("train", "train", "val", "test", "test")) for n in range(6)},
        keys={"labels": "{root}/candidates.csv", "attributes": ["lesion", "lesions"], "secret": False},
        images="{root}/blocks", columns={"low": -1000, "high": 1000},
    ),
    "lidc_idri": Layout(
        readings,
        {f"1.3.6.10{n}": Row({"nodule": 1, "malignancy": 3.5}, {"manufacturer": "ge"}, None,
                             [("malignant", 1 + 2 * n, 3, 4 if n == 1 else 35, 1, 5, 5)]) for n in (1, 2)},
        {"LIDC-IDRI-0001/1.2.5/1.3.6.103": "no readings of this series: a radiograph, or its XML file is missing"},
        {"min_side": 1}, columns={"spacing": [2.5, 0.7, 0.7]},
    ),
    "lidc_nodules": Layout(
        nodules,
        {f"1.3.6.10{n}/0": Row({}, {"manufacturer": "ge"}, None, [("malignant", 2, 2, 2, 1, 5, 5)]) for n in (1, 2)},
        {"LIDC-IDRI-0001/1.2.5/1.3.6.103": "no readings of this series: a radiograph, or its XML file is missing"},
        {"min_side": 1, "volume": {"spacing": None, "clip": [-1024, 3071], "range": [-1000, 1000],
                                   "crop": {"boxes": [4, 8, 8]}, "irregular": "resample"}},
        columns={"spacing": [2.5, 0.7, 0.7]},
    ),
    "lits": Layout(
        miniatures_3d.lits,
        {f"volume-{n}": Row(split=split)
         for split, numbers in {"train": (0, 99), "val": (100, 114), "test": (115, 129)}.items() for n in numbers}
        | {"test-volume-3": Row(split="unlabelled")},
        {"volume-130": "a number outside all ranges", "volume-7": "no segmentation"},
    ),
    "ct_rate": Layout(
        miniatures_corpora.ct_rate,
        {"train_1_a_1": Row({"Medical material": 0, "Lung nodule": 1}),
         "train_1_a_2": Row({"Medical material": 1, "Lung nodule": 0}),
         "valid_7_a_1": Row({"Medical material": 0, "Lung nodule": 1}, split="test")},
        {"train_2_b_1": NO_CHEST, "train_9_a_1": ABSENT, "valid_9_a_1": ABSENT},
        columns={"low": -1000, "high": 1000},
    ),
    "totalsegmentator": Layout(
        miniatures_corpora.totalsegmentator,
        {"s0001": Row({}, {"age": "62", "sex": "M"}, "train"), "s0002": Row({}, {"sex": "F"}, "val"),
         "s0003": Row({}, {"age": "90", "sex": "F"}, "test")},
        {"s0004": "no mask of liver"},
        {"structures": ["spleen", "liver"]},
    ),
    "acdc": Layout(
        miniatures_corpora.acdc,
        {f"{patient}_{phase}": Row({"group": group}, {}, split)
         for patient, group, split in (("patient001", 2, None), ("patient101", 0, "test")) for phase in ("ED", "ES")},
    ),
    "kits": Layout(
        partial(miniatures_corpora.pairs, images="{}/imaging.nii.gz", masks="{}/segmentation.nii.gz", names=KITS),
        {name: Row() for name in KITS}),
    "abdomenatlas": Layout(
        partial(miniatures_corpora.pairs, images="{}/ct.nii.gz", masks="{}/combined_labels.nii.gz", names=ATLAS),
        {name: Row() for name in ATLAS}),
    "flare": Layout(
        partial(miniatures_corpora.pairs, images="imagesTr2200/{}_0000.nii.gz", masks="labelsTr2200/{}.nii.gz",
                names=FLARE),
        {name: Row() for name in FLARE}),
    "openmind": Layout(
        miniatures_corpora.openmind,
        {"ds1/sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz": Row({"modality": 0}),
         "ds1/sub-01/ses-b/anat/sub-01_ses-b_T2w.nii.gz": Row({"modality": 1}, {"age": "41", "sex": "F"}),
         "ds2/sub-01/anat/sub-01_T1w.nii.gz": Row({"modality": 0}, {"age": "41", "sex": "F"})},
        {}, {"labels": "{root}/openneuro_metadata.csv"}, "{root}/OpenMind"),
    "fomo60k": Layout(partial(miniatures_corpora.fomo, paths=FOMO60K), {path: Row() for path in FOMO60K}),
    "fomo300k": Layout(partial(miniatures_corpora.fomo, paths=FOMO300K), {path: Row() for path in FOMO300K}),
    "brats": Layout(miniatures_3d.brats, BRATS, {"Brats18_incomplete": "no seg"}),
    "brats, channels": Layout(
        partial(miniatures_3d.brats, modalities=("t2", "flair", "t1ce")), BRATS, {"Brats18_incomplete": "no seg"},
        {"modalities": ["t2", "flair", "t1ce"]}, recipe="brats", columns={"channels": 3}),
    "sequences": Layout(
        miniatures_3d.sessions, {"ward/a": Row({"sick": 1}), "ward/b": Row({"sick": 0}), "c": Row()},
        keys={"sequences": PATTERNS, "mask": "*_seg.nii*", "labels": "{root}/table.csv", "secret": False},
        columns={"channels": 2}),
    "channels": Layout(
        miniatures_3d.channel_files, {"0.nii.gz": Row({"sick": 1}), "1.nii.gz": Row({"sick": 0})},
        {"2.nii.gz": "3 channels instead of 2 (T1, FLAIR)", "3.nii.gz": "1 channels instead of 2 (T1, FLAIR)"},
        {"channels": ["T1", "FLAIR"], "labels": "{root}/table.csv", "columns": {"file": "file", "mask": "mask"},
         "secret": False},
        columns={"channels": 2}),
    "bids": Layout(
        miniatures_3d.bids,
        {"sub-01": Row({"age": 61.5, "group": 1}, {"sex": "F"}), "sub-02/ses-a": Row({}, {"sex": "M"}),
         "sub-02/ses-b": Row({}, {"sex": "M"})},
        keys={"sequences": ["T1w", "FLAIR"], "labels": ["age"], "class_columns": {"group": ["control", "patient"]},
              "attributes": ["sex"], "secret": False},
        columns={"channels": 2}),
    "msd": Layout(miniatures_3d.msd, PROSTATES, NOT_PROSTATES),
    "msd, channels": Layout(
        partial(miniatures_3d.msd, channels=2), PROSTATES, NOT_PROSTATES, recipe="msd", columns={"channels": 2}),
}  # fmt: skip
