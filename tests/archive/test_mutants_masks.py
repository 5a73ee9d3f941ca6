"""Damaged and hostile masks beside good images: an image keeps its whole mask or goes to quarantine for it; none is
stored without the mask that it was said to have."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from archive import mutants
from archive.mutants import Mutant
from archive.sandbox import VALUES, convert_good, survived
from archive.test_mutants import chosen

from dira_scale.archive.sources.base import SourceRecord


def drawn(shape: tuple[int, ...]) -> np.ndarray:
    """A disc, or a ball: uint8, 0 and 1."""
    axes = np.ogrid[tuple(slice(side) for side in shape)]
    return (sum((axis - side / 2) ** 2 for axis, side in zip(axes, shape, strict=True)) < 49).astype(np.uint8)


def masks_2d(seed: int, outside: Path) -> list[Mutant]:
    mask, rng = drawn((48, 40)), random.Random(seed)
    whole = mutants.raster(255 * mask, "PNG")
    made = [*mutants.bombs(2), *mutants.places({"8.png": whole}, outside), *mutants.raster_liars(seed),
            *mutants.array_liars(mutants.picture(seed))]  # fmt: skip
    colour = np.repeat(mask[..., None], 3, 2)
    for name, content in {
        "16.png": mutants.raster(mask.astype(np.uint16), "PNG"), "rgb.png": mutants.raster(colour, "PNG"),
        "x.jpg": mutants.raster(255 * mask, "JPEG"), "x.tif": mutants.raster(mask, "TIFF"),
        "x.dcm": mutants.dicom(mask), "x.txt": b"0 1 1 0", "turned.png": mutants.raster(mask.T.copy(), "PNG"),
        "small.png": mutants.raster(mask[1:], "PNG"), "large.png": mutants.raster(np.pad(mask, 1), "PNG"),
    }.items():  # fmt: skip
        made.append(mutants.file("mask of another kind or size", name, content))
    for _ in range(200):
        kind, spoilt = mutants.damaged(whole, rng)
        made.append(mutants.file(kind, "x.png", spoilt))
    return made


def masks_3d(seed: int, outside: Path, scratch: Path) -> list[Mutant]:
    mask, rng = drawn((18, 20, 22)).astype(np.int16), random.Random(seed)
    valid = mutants.stacks(mask, scratch)
    made = [*mutants.bombs(3), *mutants.places(valid["x.nii"], outside), *mutants.array_liars(mask),
            *mutants.nifti_liars(valid["x.nii"]["x.nii"]), *mutants.text_liars(valid["x.mha"], "x.mha", b" = "),
            *mutants.text_liars(valid["x.nrrd"], "x.nrrd", b": ")]  # fmt: skip
    header, values = valid["x.mhd"]["x.mhd"], valid["x.mhd"]["x.raw"]
    made += mutants.companions(header, values, b"ElementDataFile = ", outside)
    for array in (mask - 1, 256 * mask, mask[1:], mask[0]):
        made.append(mutants.file("mask of another kind or size", "x.npy", mutants.numpy_file(array)))
    made.append(
        mutants.file(
            "mask of another kind or size", "x.dcm", mutants.volumes(seed, scratch)["frames.dcm"]["frames.dcm"]
        )
    )
    for number in range(200):
        contents = dict(list(valid.values())[number % len(valid)])
        name = rng.choice(list(contents))
        kind, contents[name] = mutants.damaged(contents[name], rng)
        made.append(mutants.files(kind, contents))
    return made


def listed(folder: Path, made: list[Mutant], images: Iterator[bytes], ending: str) -> Path:
    """Images with those masks in ``folder``, and one without; the CSV that says so."""
    rows = [["no mask" + ending, ""]]
    (folder / "images").mkdir()
    for number, mutant in enumerate(made):
        place = folder / "masks" / f"m{number:04d}"
        place.mkdir(parents=True)
        mutant.place(place)
        names = sorted(path.name for path in place.iterdir() if not path.name.endswith(VALUES))
        rows.append([place.name + ending, f"masks/{place.name}/{names[0]}".encode(errors="replace").decode()])
    for name, _ in rows:
        (folder / "images" / name).write_bytes(next(images))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "mask"], *rows])
    return folder / "labels.csv"


@pytest.mark.parametrize(
    "dims, count",
    [
        (2, 26),  # one of each kind
        pytest.param(3, 31, marks=pytest.mark.system),
        pytest.param(2, 300, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
        pytest.param(3, 300, marks=[pytest.mark.torture, pytest.mark.timeout(3600)]),
    ],
)
def test_masks(sandbox: Path, ingest: SimpleNamespace, dims: int, count: int) -> None:
    outside, inputs = sandbox / "elsewhere" / "outside", sandbox / "inputs"
    outside.write_bytes(b"Quillfeather's letter")
    made = masks_2d(3, outside) if dims == 2 else masks_3d(3, outside, sandbox / "scratch")
    made = chosen(made, count, seed=count)
    ending = ".png" if dims == 2 else ".nii"
    images = (
        mutants.raster((mutants.picture(seed) >> 4).astype(np.uint8), "PNG") if dims == 2
        else mutants.stacks(mutants.voxels(seed), sandbox / "scratch")["x.nii"]["x.nii"]
        for seed in range(10**6)
    )  # fmt: skip
    csv_file = listed(inputs, made, images, ending)
    alone = convert_good(sandbox, "out-alone", dims, images=str(inputs / "images"))
    assert len(alone.rows) == count + 1 and not alone.quarantine

    def kind(record: SourceRecord) -> str:
        return made[int(record.name[1:5])].kind if record.mask else "no mask"

    keys = {"images": str(inputs / "images"), "labels": str(csv_file), "columns.mask": "mask"}
    keys["columns.patient"] = "null"
    found, table = survived(sandbox, ingest, dims, alone._replace(rows={}), kind, **keys)
    for key, row in found.rows.items():
        assert row["xxh3"] == alone.rows[key]["xxh3"], "a mask changed its image"
    assert {reason["stage"] for reason in found.quarantine.values()} == {"mask"}
    assert table.pop(("no mask", "became samples")) == 1
    assert sum(row["mask_size"] is not None for row in found.rows.values()) == len(found.rows) - 1
    assert any(what == "good, with an odd name" and outcome == "became samples" for what, outcome in table)
