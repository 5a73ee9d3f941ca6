"""Published datasets, made small: the layout, names and quirks of each, with contents that are easy to check.

Each returns what must be stored, by record: pixels, and the mask or None.
"""

import gzip
import io
import shutil
from pathlib import Path

import numpy as np
from archive import ingest
from archive.ingest import picture
from PIL import Image

Stored = dict[str, tuple[np.ndarray, np.ndarray | None]]
# First lines of tables.
CHESTXRAY14 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def write_png(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def write_text(path: Path, *lines: str, end: str = "\n", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + end).encode(encoding))
    return path


def chestxray14(root: Path) -> Stored:
    """Six images of four patients in two of the twelve folders; the header splits two cells in two by its commas."""
    tail = "2682,2749,0.143,0.143"
    write_text(
        root / "Data_Entry_2017_v2020.csv",
        CHESTXRAY14,
        f"00000001_000.png,Cardiomegaly,0,1,57,M,PA,{tail}",
        f"00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,{tail}",
        f"00000002_000.png,No Finding,0,2,414,F,AP,{tail}",
        f"00000003_000.png,Hernia|Pleural_Thickening|Infiltration,0,3,081Y,F,PA,{tail}",
        f"00000004_000.png,no finding,0,4,95,M,AP,{tail}",
        f"00000005_000.png,Mass,0,5,30,F,PA,{tail}",  # in none of the lists
        f"00000006_000.png,Nodule,0,6,30,F,PA,{tail}",  # not there
    )
    write_text(root / "train_val_list.txt", *(f"0000000{n}.png" for n in ("1_000", "1_001", "2_000", "6_000")))
    (root / "test_list.txt").write_text("00000003_000.png\n00000004_000.png")  # the real ones do not end in a newline
    write_text(
        root / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        "00000003_000.png,Infiltrate,10.5,20.25,30,40",
        "00000003_000.png,Hernia,0,0,64,80.5",
    )
    folders = {"1_000": "001", "1_001": "001", "2_000": "001", "3_000": "012", "4_000": "012", "5_000": "012"}
    made = {}
    for n, (stem, folder) in enumerate([*folders.items(), ("9_000", "012")]):
        name = f"0000000{stem}.png"
        made[name] = write_png(root / f"images_{folder}" / "images" / name, picture(n, 96, 80)), None
    return dict(list(made.items())[:5])


def chexpert(root: Path, form: str = "CheXpert-v1.0-small") -> Stored:
    """Five films: uncertain and empty labels, a lateral one, an unknown sex, an age of 0, odd views."""
    write_text(
        root / "train.csv",
        CHEXPERT,
        f"{form}/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
        f"{form}/train/patient00002/study2/view1_frontal.jpg,Male,0,Frontal,LL,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,",
        f"{form}/train/patient00002/study1/view2_lateral.jpg,Unknown,91,Lateral,,,,,,,,,,,,,,,",
        f"{form}/train/patient00009/study1/view1_frontal.jpg,Male,20,Frontal,PA,,,,,,,,,,,,,,",
    )
    write_text(
        root / "valid.csv",
        CHEXPERT,
        f"{form}/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP,0.0,1.0,1.0,1.0" + ",0.0" * 10,
    )
    names = (
        "train/patient00001/study1/view1_frontal.jpg",
        "train/patient00002/study2/view1_frontal.jpg",
        "train/patient00002/study1/view2_lateral.jpg",
        "valid/patient64541/study1/view1_frontal.jpg",
        "train/patient00003/study1/view1_frontal.jpg",  # no line; and of patient00009 there is no file
    )
    made = {}
    for n, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(n, 39, 32)).save(root / name, quality=95)
        made[name] = np.asarray(Image.open(io.BytesIO((root / name).read_bytes()))), None
    return dict(list(made.items())[:4])


def siim_acr(root: Path) -> Stored:
    """Four secondary captures, not square; run lengths written pixel by pixel."""
    shape, made = (60, 50), {}
    square, ring, corner = np.zeros((3, *shape), bool)
    square[10:20, 5:30] = True
    ring[30:50, 20:45] = True
    ring[35:45, 25:40] = False
    corner[-5:, -4:] = True  # the last run ends with the image
    parts = {"1.2.276.1": [square], "1.2.276.2": [ring, square, corner], "1.2.276.3": []}
    rows = []
    for n, (uid, regions) in enumerate(parts.items()):
        pixels = picture(n, *shape).astype(np.uint16) * 16
        path = root / "dicom-images-train" / f"{uid}.9" / f"{uid}.8" / f"{uid}.dcm"
        sop = "1.2.840.10008.5.1.4.1.1.7"
        ingest.dicom(
            path, pixels, SOPClassUID=sop, PatientID=f"P{n}", PatientSex="F", PatientAge="051Y", ViewPosition="PA",
            StudyInstanceUID=f"1.3.{n}",
        )  # fmt: skip
        levels = (pixels.astype(float) - pixels.min()) / np.ptp(pixels)
        made[uid] = np.rint(255 * levels), np.any([np.zeros(shape, bool), *regions], axis=0) * np.uint8(255)
        rows += [f"{uid}, {runs(region)}" for region in regions] or [f"{uid}, -1"]
    ingest.dicom(root / "dicom-images-test" / "1.2.276.4" / "1" / "1.2.276.4.dcm", pixels)
    rows = [rows[1], *rows[:1], *rows[2:], "1.2.276.5, -1"]  # lines of one image apart; one file is not there
    write_text(root / "train-rle.csv", "ImageId, EncodedPixels", *rows)
    return made


def runs(region: np.ndarray) -> str:
    """Gaps and lengths, counted one pixel after the other, down each column."""
    gap = length = 0
    reported: list[int] = []
    for x in range(region.shape[1]):
        for y in range(region.shape[0]):
            if region[y, x]:
                length += 1
            else:
                if length:
                    reported += [gap, length]
                    gap = length = 0
                gap += 1
    return " ".join(map(str, reported + ([gap, length] if length else [])))


def montgomery(root: Path) -> Stored:
    """Three images with masks of either lung, one of them without its right one; readings with odd blanks."""
    made = {}
    for n, stem in enumerate(("MCUCXR_0001_0", "MCUCXR_0108_1", "MCUCXR_0200_1")):
        pixels, lungs = write_png(root / "CXR_png" / f"{stem}.png", picture(n, 56, 64)), np.zeros((56, 64), np.uint8)
        for side, columns in (("left", slice(34, 50)), ("right", slice(10, 30))):
            mask = np.zeros((56, 64), np.uint8)
            mask[10 + n : 40, columns] = 255
            lungs |= mask
            if (side, n) != ("right", 2):
                write_png(root / "ManualMask" / f"{side}Mask" / f"{stem}.png", mask)
        made[f"{stem}.png"] = pixels, lungs if n < 2 else None  # half a mask is none
    readings = root / "ClinicalReadings"
    write_text(readings / "MCUCXR_0001_0.txt", "Patient's Sex: F ", "Patient's Age: 027Y", "normal", end="\r\n")
    write_text(readings / "MCUCXR_0108_1.txt", "Patient's Sex: M", "Patient's Age: 092Y", "cavitary, for 3 years")
    write_png(root / "CXR_png" / "Thumbs.png", picture(7))
    return made


def shenzhen(root: Path) -> Stored:
    """Four images, one as a palette, one of a baby; masks for two of them."""
    made = {}
    readings = {
        "CHNCXR_0001_0": "male 45yrs\nnormal",
        "CHNCXR_0002_0": "Female, 24 yrs\nnormal, 3 years ago ill",
        "CHNCXR_0328_1": "femal 32yrs \nTB",
        "CHNCXR_0400_1": "male 16month\nTB",
    }
    for n, (stem, text) in enumerate(readings.items()):
        pixels = picture(n, 50, 44)
        write_text(root / "ClinicalReadings" / f"{stem}.txt", text)
        image = Image.fromarray(pixels)
        (root / "CXR_png").mkdir(exist_ok=True)
        (image.convert("P") if n == 0 else image).save(root / "CXR_png" / f"{stem}.png")
        mask = (pixels > 120).astype(np.uint8) * 255 if n < 2 else None
        if mask is not None:
            write_png(root / "mask" / f"{stem}_mask.png", mask)
        made[f"{stem}.png"] = pixels, mask
    return made


def jsrt(root: Path) -> Stored:
    """Two films with a nodule (one near the edge), one without, one of another size; values as in the raw files."""
    images, made = root / "JSRT", {}
    y, x = np.mgrid[:2048, :2048]
    for n, name in enumerate(("JPCLN001", "JPCLN154", "JPCNN001")):
        values = (x + 3 * y + 500 * n) % 4096
        made[f"{name}.IMG"] = 4095 - values, None
        folder = images / ("Nodule154images" if "CLN" in name else "NonNodule93images")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.IMG").write_bytes(values.astype(">u2").tobytes())
    (images / "NonNodule93images" / "JPCNN002.IMG").write_bytes(b"\0" * 1000)
    (images / "NonNodule93images" / "JPCNN099.IMG").write_bytes(b"\0" * 1000)
    clinical = images / "Clinical_Information"
    write_text(
        clinical / "CLNDAT_EN.txt",
        "JPCLN001.IMG\t5\t15\t53\tmale\t1634\t692\tmalignant\tl.upper lobe\tlung cancer",
        "JPCLN154.IMG\t1\t20\t?\tfemale\t30\t2040\tbenign\tr.lower lobe(S8)\tgranuloma",
        end="\r\n",
    )
    write_text(
        clinical / "CNNDAT_EN.TXT",
        "JPCNN001.IMG\t37\tfemale\tnon-nodule",
        "JPCNN002.IMG\t40\tmale\tnon-nodule",
        "JPCNN003.IMG\t40\tmale\tnon-nodule",
        end="\r\n",
    )
    drawn = np.zeros((1024, 1024), np.uint8)
    for fold, name in (("fold1", "JPCLN001"), ("fold2", "JPCNN001")):
        for n, structure in enumerate(("left lung", "right lung", "heart", "left clavicle", "right clavicle")):
            mask = np.zeros((1024, 1024), np.uint8)
            mask[100 + 50 * n : 400 + 50 * n, 200 + 80 * n : 500 + 80 * n] = 255
            drawn[mask > 0] = (1, 1, 2, 3, 3)[n]
            path = root / "SCR" / "scratch" / fold / "masks" / structure / f"{name}.gif"
            path.parent.mkdir(parents=True, exist_ok=True)
            if (name, structure) != ("JPCNN001", "heart"):
                Image.fromarray(mask).save(path)
    made["JPCLN001.IMG"] = made["JPCLN001.IMG"][0], np.kron(drawn, np.ones((2, 2), np.uint8))
    return made


def medmnist(root: Path, colours: bool = False, classes: int = 2) -> Stored:
    """An archive ``set.npz`` as the set's own: deflated, with 12, 5 and 6 images of 28 pixels."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("val", 5), ("test", 6)):
        shape = (count, 28, 28, 3) if colours else (count, 28, 28)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        labels = rng.integers(0, 2, (count, 14)) if classes == 14 else np.arange(count)[:, None] % classes
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(root / "set.npz", **arrays)
    splits = {split: arrays[f"{split}_images"] for split in ("train", "val", "test")}
    return {f"set/{split}/{n}": (image, None) for split, images in splits.items() for n, image in enumerate(images)}


def unpacked(source: Path, target: Path) -> Path:
    """A list that is kept as gzip."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(source) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return target
