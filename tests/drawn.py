"""Small archives, drawn: radiographs with masks and boxes, volumes, tables, and a broken file of each kind."""

import csv
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image


def draw(source: Path, count: int) -> None:
    """Radiographs of 40 x 36 pixels, PNG (8 and 16 bits) and JPEG, and a broken one; three volumes and a broken one."""
    (source / "images").mkdir(parents=True)
    (source / "volumes").mkdir()
    rng, rows, boxes = np.random.default_rng(0), [], []
    for i in range(count):
        picture, disc = radiograph(rng)
        name = f"{i:02d}.{'jpg' if i % 3 == 1 else 'png'}"
        values = np.uint16(picture * 65535) if i % 3 == 2 else np.uint8(picture * 255)
        Image.fromarray(values).save(source / "images" / name, **({"quality": 90} if i % 3 == 1 else {}))
        row = {"file": name, "patient": f"p{i // 2}", "study": f"s{i}", "mask": ""}
        row |= {"split": "train" if i // 2 < count / 3 else "val" if i // 2 < count / 2.4 else "test"}
        if i % 4 == 0:
            row["mask"] = f"mask{i:02d}.png"
            Image.fromarray(np.uint8(disc) * 255).save(source / "images" / row["mask"])
            y, x = np.nonzero(disc)
            sides = {"y": y.min(), "x": x.min(), "h": np.ptp(y) + 1, "w": np.ptp(x) + 1}
            boxes.append({"file": name, "label": "disc"} | {side: int(value) for side, value in sides.items()})
        rows.append(row | {"nodule": i % 2, "mass": "" if i % 5 == 0 else i % 3 // 2, "sex": "FM"[i // 2 % 2],
                           "view": ("PA", "AP")[i % 2]})  # fmt: skip
    (source / "images" / "broken.png").write_bytes(b"no picture")
    rows.append({**rows[0], "file": "broken.png", "patient": "p12", "study": "s24", "mask": ""})
    table(source / "labels.csv", rows)
    table(source / "boxes.csv", boxes)
    draw_volumes(source)


def draw_volumes(source: Path) -> None:
    rng, rows = np.random.default_rng(1), []
    z, y, x = np.mgrid[-1:1:16j, -1:1:20j, -1:1:18j]
    for i, split in enumerate(("train", "train", "val")):
        centre = rng.uniform(-0.4, 0.4, 3)
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 0.15
        voxels = np.int16(-800 + 700 * (z**2 + y**2 + x**2 < 0.8) + 100 * ball + rng.normal(0, 8, z.shape))
        affine = np.array([[-0.7, 0, 0, 5], [0, -0.8, 0, 6], [0, 0, 2.5, 7 + i], [0, 0, 0, 1]])
        nib.save(nib.Nifti1Image(voxels.T, affine), source / "volumes" / f"{i}.nii.gz")
        nib.save(nib.Nifti1Image(np.uint8(ball).T, affine), source / "volumes" / f"mask{i}.nii.gz")
        mask = "" if split == "val" else f"mask{i}.nii.gz"
        rows.append({"file": f"{i}.nii.gz", "patient": f"v{i}", "split": split, "mask": mask, "nodule": i % 2})
    (source / "volumes" / "mask2.nii.gz").unlink()
    (source / "volumes" / "broken.nii.gz").write_bytes(b"no volume")
    rows.append({"file": "broken.nii.gz", "patient": "v3", "split": "train", "mask": "", "nodule": 0})
    table(source / "volumes.csv", rows)
    block = {"file": "0.nii.gz", "label": "ball", "z": 2, "y": 3, "x": 4, "d": 5, "h": 6, "w": 7}
    table(source / "blocks.csv", [block])


def radiograph(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A slope with two discs, in [0, 1], and where the second one is."""
    y, x = np.mgrid[-1:1:40j, -1:1:36j]
    picture = 0.5 + 0.2 * rng.uniform(-1, 1) * y + 0.2 * rng.uniform(-1, 1) * x
    for brightness in (0.25, -0.2):
        cy, cx = rng.uniform(-0.5, 0.5, 2)
        disc = (y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(0.1, 0.25)
        picture = picture + brightness * disc
    return picture.clip(0, 1), disc


def table(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
