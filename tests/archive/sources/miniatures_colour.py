"""Published collections in colour, made small: the names and tables of each."""

from pathlib import Path

import numpy as np
import scipy.io
from archive.sources.miniatures import Stored, picture, write_png, write_text
from PIL import Image

KVASIR = (
    "dyed-lifted-polyps", "dyed-resection-margins", "esophagitis", "normal-cecum", "normal-pylorus", "normal-z-line",
    "polyps", "ulcerative-colitis",
)  # fmt: skip


def colours(seed: int, height: int = 48, width: int = 40) -> np.ndarray:
    """uint8 [height, width, 3]."""
    return np.stack([picture(seed + 100 * channel, height, width) for channel in range(3)], -1)


def write(path: Path, seed: int, grey: bool = False) -> np.ndarray:
    """The pixels as a JPEG, PNG or TIFF has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed) if grey else colours(seed)).save(path)
    return np.asarray(Image.open(path))


def ham10000(root: Path) -> Stored:
    """Both parts; two images of a lesion; an outline beside them, a line without an image."""
    write_text(
        root / "HAM10000_metadata",
        "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset",
        "HAM_0000118,ISIC_0027419,bkl,histo,80.0,male,scalp,vidir_modern",
        "HAM_0000118,ISIC_0025030,bkl,histo,80.0,male,scalp,vidir_modern",
        "HAM_0002730,ISIC_0026769,mel,histo,,unknown,face,rosendahl",
        "HAM_0002731,ISIC_0026770,nv,follow_up,35.0,female,back,vidir_molemax",
    )
    write(root / "masks" / "ISIC_0027419_segmentation.png", 9, grey=True)
    files = ("part_1/ISIC_0027419", "part_2/ISIC_0025030", "part_2/ISIC_0026769")
    return {Path(f).name: (write(root / f"HAM10000_images_{f}.jpg", n), None) for n, f in enumerate(files)}


def isic2019(root: Path) -> Stored:
    """One image in grey; the second table has the lesions, in another order, one of them unknown."""
    write_text(
        root / "ISIC_2019_Training_GroundTruth.csv",
        "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK",
        "ISIC_0000000,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0000029_downsampled,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0",
        "ISIC_0073254,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0",
    )
    write_text(
        root / "ISIC_2019_Training_Metadata.csv",
        "image,age_approx,anatom_site_general,lesion_id,sex",
        "ISIC_0073254,50.0,head/neck,BCN_0003925,female",
        "ISIC_0000029_downsampled,,anterior torso,,",
        "ISIC_0000000,55.0,anterior torso,MSK4_0011169,male",
    )
    folder = root / "ISIC_2019_Training_Input"
    write(folder / "ISIC_0073254.jpg", 3, grey=True)
    names = ("ISIC_0000000", "ISIC_0000029_downsampled")
    return {name: (write(folder / f"{name}.jpg", n), None) for n, name in enumerate(names)}


def kvasir(root: Path) -> Stored:
    files = [f"{name}/{n}a.jpg" for n, name in enumerate(KVASIR)]
    return {file: (write(root / file, n), None) for n, file in enumerate(files)}


def eyepacs(root: Path) -> Stored:
    """Both eyes of a patient, one of another; a test image, which has no line."""
    write_text(root / "trainLabels.csv", "image,level", "10_left,0", "10_right,4", "13_left,2", "15_left,1")
    write(root / "test" / "1_left.jpeg", 9)
    names = ("10_left", "10_right", "13_left")
    return {name: (write(root / "train" / f"{name}.jpeg", n), None) for n, name in enumerate(names)}


def patchcamelyon(root: Path) -> Stored:
    names = ("f38a6374c348f90b587e046aac6079959adf3835", "c18f2d887b7ae4f6742ee445113fa1aef383ed77")
    write_text(root / "train_labels.csv", "id,label", *(f"{name},{n}" for n, name in enumerate(names)))
    return {name: (write(root / "train" / f"{name}.tif", n), None) for n, name in enumerate(names)}


def imagenet(root: Path, truth: str = "") -> Stored:
    """Two synsets, a grey image, a PNG that is called JPEG; val in folders or, with ``truth``, without. One image is of
    a synset that has no training images."""
    train = root / "train"
    stored = {
        "train/n01440764/n01440764_10026.JPEG": write(train / "n01440764" / "n01440764_10026.JPEG", 0),
        "train/n01443537/n01443537_2.JPEG": np.repeat(
            write(train / "n01443537" / "n01443537_2.JPEG", 1, grey=True)[..., None], 3, axis=2
        ),
    }
    synsets = {2: "n01443537", 3: "n99999999"} if not truth else {1: "n01443537", 2: "n01440764", 3: "n99999999"}
    for n, synset in synsets.items():
        name = f"{synset}/ILSVRC2012_val_{n:08}.JPEG" if not truth else f"ILSVRC2012_val_{n:08}.JPEG"
        pixels = write(root / "val" / name, n)
        stored |= {f"val/{name}": pixels} if synset != "n99999999" else {}
    with (train / "n01440764" / "n01440764_10026.JPEG").open("wb") as file:
        Image.fromarray(colours(7)).save(file, "PNG")
    stored["train/n01440764/n01440764_10026.JPEG"] = colours(7)
    if truth.endswith(".csv"):
        lines = [f"ILSVRC2012_val_{n:08},{synset} 1 2 30 40 {synset} 5 5 9 9 " for n, synset in synsets.items()]
        write_text(root / "data" / truth, "ImageId,PredictionString", *reversed(lines))
    elif truth:  # the kit's numbers are not in the synsets' order, and groups of synsets have some, too
        numbers = {"n01443537": 1, "n01440764": 2, "n99999999": 3, "n00001740": 1001}
        write_text(root / "data" / truth, *(str(numbers[synset]) for synset in synsets.values()))
        kind = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
        table = np.array([(number, synset, 0) for synset, number in numbers.items()], kind)
        scipy.io.savemat(root / "data" / "meta.mat", {"synsets": table[:, None]})
        write_text(root / "data" / "here" / "meta.mat", "none")
    return {name: (pixels, None) for name, pixels in stored.items()}


# Ids of a mask, and the values that are stored of them: trainId + 1, as cityscapesScripts' table has it; 0: ignored.
CITYSCAPES = [
    (0, 0), (3, 0), (7, 1), (8, 2), (9, 0), (11, 3), (12, 4), (13, 5), (14, 0), (17, 6), (18, 0), (19, 7), (20, 8),
    (21, 9), (22, 10), (23, 11), (24, 12), (25, 13), (26, 14), (27, 15), (28, 16), (29, 0), (30, 0), (31, 17),
    (32, 18), (33, 19), (255, 0),
]  # fmt: skip


def cityscapes(root: Path) -> Stored:
    """Two scenes of one city, one of val, one of test with an empty mask; one without a mask, one in no city."""
    ids, values = (np.resize(np.array(of, np.uint8), (48, 40)) for of in zip(*CITYSCAPES, strict=True))
    stored: Stored = {}
    scenes = ("train/aachen", 0), ("train/aachen", 1), ("val/munster", 0), ("test/berlin", 0), ("train/ulm", 0)
    for n, (folder, number) in enumerate(scenes):
        name = f"{folder.partition('/')[2]}_{number:06}_000019"
        pixels = write(root / "leftImg8bit" / folder / f"{name}_leftImg8bit.png", n)
        if "ulm" in folder:
            continue
        empty = folder.startswith("test")
        write_png(
            root / "gtFine" / folder / f"{name}_gtFine_labelIds.png", np.roll(np.zeros_like(ids) if empty else ids, n)
        )
        write_png(root / "gtFine" / folder / f"{name}_gtFine_color.png", pixels)
        stored[name] = pixels, None if empty else np.roll(values, n)
    write(root / "leftImg8bit" / "lost_leftImg8bit.png", 9)
    return stored


def class_folders(root: Path) -> Stored:
    """With a picture in the upper folder, which is no class."""
    write(root / "overview.png", 9)
    files = ("train/benign/a.png", "train/benign/b.png", "test/malignant/a.tif")
    return {file: (write(root / file, n), None) for n, file in enumerate(files)}
