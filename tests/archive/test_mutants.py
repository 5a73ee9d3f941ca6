"""The converter among damaged and hostile files and masks; ``sandbox.py`` has what must hold."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from archive.mutants.corpus import SEED, chosen, corpus
from archive.mutants.damage import Mutant, file
from archive.mutants.valid import dicom, images, numpy_file, picture, png, raster, stacks, volumes, voxels
from archive.sandbox import VALUES, convert_good, place_all, survived


def counts(few: int, many: int, *marks: pytest.MarkDecorator) -> pytest.MarkDecorator:
    """Images and volumes; ``few`` mutants by default, of volumes with ``marks``, and ``many`` under torture."""
    torture = (pytest.mark.torture, pytest.mark.timeout(3600))
    cases = [(2, few, ()), (3, few, marks), (2, many, torture), (3, many, torture)]
    return pytest.mark.parametrize("dims, count", [pytest.param(*case, marks=marked) for *case, marked in cases])


@pytest.fixture
def outside(sandbox: Path) -> Path:
    """A file that nobody may read."""
    (sandbox / "elsewhere" / "outside").write_bytes(b"Quillfeather's letter")
    return sandbox / "elsewhere" / "outside"


@counts(50, 600)
def test_mutants_among_good_files(sandbox: Path, outside: Path, dims: int, count: int) -> None:
    inputs, valid = sandbox / "inputs", images if dims == 2 else volumes
    for kind, contents in valid(10**6).items():
        (inputs / "good" / kind).mkdir(parents=True)
        for name, content in contents.items():
            (inputs / "good" / kind / name).write_bytes(content)
    alone = convert_good(sandbox, "out-alone", dims)
    assert alone.rows and not alone.quarantine, alone.quarantine
    made = chosen(corpus(valid(SEED), picture(SEED) if dims == 2 else voxels(SEED), outside), count)
    _, table = survived(sandbox, dims, alone, place_all(made, inputs))
    assert {outcome for what, outcome in table if what == "good, with an odd name"} == {"became samples"}, table


def masks(dims: int, outside: Path) -> Iterator[Mutant]:
    """Mutants of a mask, and masks of another kind or size than the image's."""
    shape = (48, 40) if dims == 2 else (18, 20, 22)
    axes = np.ogrid[tuple(slice(side) for side in shape)]
    ball = sum((axis - side / 2) ** 2 for axis, side in zip(axes, shape, strict=True)) < 49
    mask = ball.astype(np.uint8 if dims == 2 else np.int16)
    if dims == 2:
        yield from corpus({"8.png": {"8.png": raster(255 * mask, "PNG")}}, mask.astype(np.uint16), outside)
        others = {
            "16.png": raster(mask.astype(np.uint16), "PNG"), "rgb.png": raster(np.repeat(mask[..., None], 3, 2), "PNG"),
            "x.txt": b"0 1 1 0", "turned.png": raster(mask.T.copy(), "PNG"),
        }  # fmt: skip
    else:
        yield from corpus(stacks(mask), mask, outside)
        others = {f"{n}.npy": numpy_file(a) for n, a in enumerate((mask - 1, 256 * mask, mask[1:], mask[0]))}
    for name, content in (others | {"x.dcm": dicom(mask.astype(np.uint16))}).items():
        yield file(f"mask of another kind or size: {name}", name, content)


@counts(40, 300, pytest.mark.system)
def test_masks_of_good_images(sandbox: Path, outside: Path, dims: int, count: int) -> None:
    """An image keeps its whole mask or goes to quarantine for it: none is stored without the mask that it has."""
    inputs, made = sandbox / "inputs", chosen(masks(dims, outside), count)
    place_all(made, inputs / "masks")
    rows = [("plain", "")]
    for number in range(len(made)):
        names = sorted(path.name for path in (inputs / "masks" / f"m{number:04d}").iterdir())
        (first, *_) = (name for name in names if not name.endswith(VALUES))
        rows.append((f"m{number:04d}", f"masks/m{number:04d}/{first}".encode(errors="replace").decode()))
    ending = "png" if dims == 2 else "nii"
    (inputs / "images").mkdir()
    for seed, (name, _) in enumerate(rows):
        content = png(seed) if dims == 2 else stacks(voxels(seed))["x.nii"]["x.nii"]
        (inputs / "images" / f"{name}.{ending}").write_bytes(content)
    with (inputs / "labels.csv").open("w", newline="") as table_file:
        csv.writer(table_file).writerows([("file", "mask"), *((f"{name}.{ending}", mask) for name, mask in rows)])
    alone = convert_good(sandbox, "out-alone", dims, images=str(inputs / "images"))
    assert len(alone.rows) == len(rows) and not alone.quarantine
    keys = {"images": str(inputs / "images"), "labels": str(inputs / "labels.csv"), "columns.mask": "mask"}
    found, table = survived(
        sandbox, dims, alone._replace(rows={}), lambda record: made[int(record.name[1:5])].kind if record.mask else "",
        **keys, **{"columns.patient": "null"},
    )  # fmt: skip
    for key, row in found.rows.items():
        assert row["xxh3"] == alone.rows[key]["xxh3"], "a mask changed its image"
    assert {reason["stage"] for reason in found.quarantine.values()} == {"mask"}
    assert table.pop(("", "became samples")) == 1
    assert sum(row["mask_size"] is not None for row in found.rows.values()) == len(found.rows) - 1
    assert any(what == "good, with an odd name" and outcome == "became samples" for what, outcome in table)
