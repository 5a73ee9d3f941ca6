"""Published datasets of some dozen patients, in the layout of each: enough for splits that can be learned and judged.

Few of their quirks are here; those are in ``ingest.sources.miniatures``, whose writers these use.
"""

from pathlib import Path
from typing import Any

import numpy as np
from archive.conftest import recipe, write_dicom
from archive.sources.miniatures import CHESTXRAY14, CHEXPERT, picture, runs, write_png, write_text
from PIL import Image

from dira_scale.archive.sources.chestxray14 import FINDINGS
from dira_scale.shard.convert import convert

TRAINED, TESTED = 56, 14  # patients
SHAPE = 56, 64


def sharded(name: str, root: Path) -> Path:
    """The miniature of the recipe ``name``, made and sharded by it below ``root``."""
    keys = MAKERS[name](root / "source") | {"name": "miniature"}
    convert(recipe(name, **keys), root / "shards", 1)
    return root / "shards"


def chestxray14(root: Path) -> dict[str, Any]:
    """Each finding in several patients."""
    lines, names = [CHESTXRAY14], []
    for n in range(TRAINED + TESTED):
        names.append(f"{n + 1:08d}_000.png")
        findings = "|".join(sorted({FINDINGS[n % 14], FINDINGS[5 * n % 14]})) if n % 5 else "No Finding"
        lines.append(f"{names[n]},{findings},0,{n + 1},{20 + n},{'MF'[n % 2]},PA,2682,2749,0.143,0.143")
        write_png(root / "images" / names[n], picture(n))
    write_text(root / "Data_Entry_2017_v2020.csv", *lines)
    write_text(root / "train_val_list.txt", *names[:TRAINED])
    write_text(root / "test_list.txt", *names[TRAINED:])
    return {"images": str(root)}


def chexpert(root: Path) -> dict[str, Any]:
    """Positive, negative, uncertain and empty cells of each label; for the test split, neither of the latter two."""
    for table, count in (("train", TRAINED), ("valid", TESTED)):
        lines = [CHEXPERT]
        for n in range(count):
            name = f"{table}/patient{n + 1 + TRAINED * (table == 'valid'):05d}/study1/view1_frontal.jpg"
            cells = "1.0", "0.0", *(("-1.0", "") if table == "train" else ("0.0", "1.0"))
            labels = ",".join(cells[(n // 4 ** (label % 2) + label) % 4] for label in range(14))
            lines.append(f"CheXpert-v1.0-small/{name},Male,{30 + n},Frontal,AP,{labels}")
            (root / name).parent.mkdir(parents=True)
            Image.fromarray(picture(n)).save(root / name)
        write_text(root / f"{table}.csv", *lines)
    return {"images": str(root)}


def siim_acr(root: Path) -> dict[str, Any]:
    """Every second has a pneumothorax."""
    lines = ["ImageId, EncodedPixels"]
    for n in range(40):
        region = np.zeros(SHAPE, bool)
        region[10:30, 5 + n % 20 : 40] = True
        lines.append(f"1.2.276.{n}, {runs(region) if n % 2 else -1}")
        path = root / "dicom-images-train" / f"1.2.276.{n}.9" / f"1.2.276.{n}.dcm"
        write_dicom(
            path, picture(n, *SHAPE).astype(np.uint16) * 16, SOPClassUID="1.2.840.10008.5.1.4.1.1.7",
            PatientID=f"P{n}", PatientSex="F", PatientAge="051Y", ViewPosition="PA", StudyInstanceUID=f"1.3.{n}",
        )  # fmt: skip
    write_text(root / "train-rle.csv", *lines)
    return {"images": str(root)}


MAKERS = {"chestxray14": chestxray14, "chexpert": chexpert, "siim_acr": siim_acr}
