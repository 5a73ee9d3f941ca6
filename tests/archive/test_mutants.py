"""The converter among damaged and hostile files, masks, and copies of real files; ``sandbox.py`` has what must hold."""

import csv
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from archive.mutants.corpus import chosen, corpus
from archive.mutants.damage import Mutant, damaged, file, files
from archive.mutants.valid import dicom, images, numpy_file, picture, png, raster, stacks, volumes, voxels
from archive.sandbox import VALUES, convert_good, place_all, survived
from needs import REAL, real_data

TORTURE = (pytest.mark.torture, pytest.mark.timeout(3600))


@pytest.fixture
def outside(sandbox: Path) -> Path:
    """A file that nobody may read."""
    (sandbox / "elsewhere" / "outside").write_bytes(b"Quillfeather's letter")
    return sandbox / "elsewhere" / "outside"


def valid_inputs(seed: int, dims: int) -> dict[str, dict[str, bytes]]:
    """Valid inputs of every kind."""
    return images(seed) if dims == 2 else volumes(seed)


@pytest.mark.parametrize(
    "dims, count", [(2, None), (3, None), pytest.param(2, 600, marks=TORTURE), pytest.param(3, 600, marks=TORTURE)]
)
def test_mutants_among_good_files(sandbox: Path, outside: Path, dims: int, count: int | None) -> None:
    """One of each kind, or as many as ``count``."""
    inputs = sandbox / "inputs"
    for kind, contents in valid_inputs(10**6, dims).items():
        (inputs / "good" / kind).mkdir(parents=True)
        for name, content in contents.items():
            (inputs / "good" / kind / name).write_bytes(content)
    alone = convert_good(sandbox, "out-alone", dims)
    assert alone.rows and not alone.quarantine, alone.quarantine
    made = chosen(corpus(valid_inputs(7, dims), picture(7) if dims == 2 else voxels(7), 7, outside), count)
    _, table = survived(sandbox, dims, alone, place_all(made, inputs))
    assert {outcome for what, outcome in table if what == "good, with an odd name"} == {"became samples"}, table


def masks(dims: int, outside: Path) -> Iterator[Mutant]:
    """Mutants of a mask, and masks of another kind or size than the image's."""
    shape = (48, 40) if dims == 2 else (18, 20, 22)
    axes = np.ogrid[tuple(slice(side) for side in shape)]
    ball = sum((axis - side / 2) ** 2 for axis, side in zip(axes, shape, strict=True)) < 49
    mask = ball.astype(np.uint8 if dims == 2 else np.int16)
    if dims == 2:
        yield from corpus({"8.png": {"8.png": raster(255 * mask, "PNG")}}, mask.astype(np.uint16), 3, outside)
        others = {
            "16.png": raster(mask.astype(np.uint16), "PNG"), "rgb.png": raster(np.repeat(mask[..., None], 3, 2), "PNG"),
            "x.jpg": raster(255 * mask, "JPEG"), "x.tif": raster(mask, "TIFF"), "x.txt": b"0 1 1 0",
            "turned.png": raster(mask.T.copy(), "PNG"), "large.png": raster(np.pad(mask, 1), "PNG"),
        }  # fmt: skip
    else:
        yield from corpus(stacks(mask), mask, 3, outside)
        others = {f"{n}.npy": numpy_file(a) for n, a in enumerate((mask - 1, 256 * mask, mask[1:], mask[0]))}
    for name, content in (others | {"x.dcm": dicom(mask.astype(np.uint16))}).items():
        yield file("mask of another kind or size", name, content)


@pytest.mark.parametrize(
    "dims, count",
    [
        (2, None),
        pytest.param(3, None, marks=pytest.mark.system),
        pytest.param(2, 300, marks=TORTURE),
        pytest.param(3, 300, marks=TORTURE),
    ],
)
def test_masks_of_good_images(sandbox: Path, outside: Path, dims: int, count: int | None) -> None:
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


SAMPLES = {  # by dimensions: how many of each
    2: {"dicom_cornerstone_ct/*.dcm": 99, "dicom_pydicom_data/*.dcm": 99, "dicom_lungmask_ct/*.dcm": 1,
        "chestxray14_nih12_1024/**/*.png": 1, "chestxray14_nih1000_64/images/*.png": 3, "shenzhen_256/images/*.png": 2,
        "pediatric_pneumonia_224/images/**/*.jpeg": 3},
    3: {"msd_hippocampus/images/*.nii.gz": 6, "lidc_vois/image/*.nii.gz": 6, "volumes_misc/CT_*.nii.gz": 1,
        "totalsegmentator_ct/**/example_ct*.nii.gz": 1, "pyradiomics_nrrd/data/*.nrrd": 2},
}  # fmt: skip


def real_files(dims: int, scratch: Path) -> Iterator[dict[str, bytes]]:
    """Real inputs, each one's files by their names; a volume also as MetaImage, of which none of them is."""
    real_data()
    for pattern, count in SAMPLES[dims].items():
        paths = sorted(REAL.glob(pattern))
        assert paths, f"{REAL / pattern} is absent"
        for path in paths[:: max(1, len(paths) // count)][:count]:
            yield {path.name: path.read_bytes()}
    if dims == 3:
        image = SimpleITK.ReadImage(str(sorted(REAL.glob("msd_hippocampus/images/*.nii.gz"))[0]))
        for key in image.GetMetaDataKeys():  # NIfTI's own, of which the writer would warn
            image.EraseMetaData(key)
        for name in ("whole.mha", "parts.mhd"):
            SimpleITK.WriteImage(image, str(scratch / name))
            yield {path.name: path.read_bytes() for path in scratch.glob(f"{name.partition('.')[0]}.*")}


@pytest.mark.data
@pytest.mark.parametrize(
    "dims, count",
    [
        pytest.param(2, 40, marks=pytest.mark.system),
        pytest.param(2, 600, marks=TORTURE),
        pytest.param(3, 200, marks=TORTURE),
    ],
)
def test_damaged_copies_of_real_files(sandbox: Path, dims: int, count: int) -> None:
    rng, whole = random.Random(count), list(real_files(dims, sandbox / "scratch"))
    if count < len(whole):  # the system tier takes a part of them
        whole = rng.sample(whole, count)
    keys = {"burned_in": "keep", "min_side": "3"}
    for number, contents in enumerate(whole):
        (sandbox / "inputs" / f"good{number}").mkdir()
        for name, content in contents.items():
            (sandbox / "inputs" / f"good{number}" / name).write_bytes(content)
    alone = convert_good(sandbox, "out-alone", dims, **keys)
    assert len(alone.rows) > len(whole) / 2
    made = []
    for number in range(count):
        contents = dict(whole[number % len(whole)])
        name = min(contents)  # a header, where its values are in another file
        accident, contents[name] = damaged(contents[name], rng)
        made.append(files(f"{accident}: {Path(name).suffix}", contents))
    survived(sandbox, dims, alone, place_all(made, sandbox / "inputs"), **keys)
