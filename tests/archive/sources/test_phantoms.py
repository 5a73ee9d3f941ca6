"""Phantoms on their way through sharding: pixels, voxels, boxes, masks and labels arrive, identities do not."""

import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
import SimpleITK
from omegaconf import OmegaConf

from dira_scale.archive.phantom.ct.study import FINDING
from dira_scale.archive.phantom.dicom import IDENTIFYING, PRIVATE_CREATOR
from dira_scale.archive.sources.phantom_ct import PhantomCT
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard.convert import convert

# Of two CT patients the first has two studies, the second one; in the abdomen each has one.
KEYS = {
    "phantom_cxr": ("patients=6", "size=128", "bits=16", "codec=png"),
    "phantom_ct": ("patients=2", "size=32", "seed=4"),
    "phantom_abdomen": ("patients=2", "size=48", "seed=6"),
}


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Phantoms of a recipe, made where the command is given, their tables, and their shards."""
    recipe, folder = request.param, tmp_path_factory.mktemp("phantom")
    config = compose("shard", [f"recipe={recipe}", "out=shards", *(f"recipe.{key}" for key in KEYS[recipe])])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("dira_scale.archive.phantom.ct.chest.FED", 60)  # few vessels: they are most of the time
        convert(OmegaConf.to_container(config.recipe, resolve=True), Path("shards"), workers=1)
    (source,) = (folder / "out" / ("phantom_cxr" if recipe == "phantom_cxr" else "phantom_ct")).iterdir()
    listed, boxes = (list(csv.DictReader((source / f"{name}.csv").open())) for name in ("labels", "boxes"))
    dataset = ShardedDataset.open(folder / "shards")
    assert len(dataset.table) == len(listed) and dataset.info.quarantined == 0 and boxes
    patients = int(KEYS[recipe][0].partition("=")[2])
    assert len(dataset.table["patient"].unique()) == patients
    return SimpleNamespace(source=source, listed=listed, boxes=boxes, dataset=dataset)


def shown(path: Path) -> np.ndarray:
    """A radiograph as its header says, by the standard's formula."""
    ds = pydicom.dcmread(path)
    low, width = float(ds.WindowCenter) - 0.5 - (float(ds.WindowWidth) - 1) / 2, float(ds.WindowWidth)
    values = np.clip(ds.pixel_array - low, 0, width - 1)
    return np.rint(width - 1 - values if ds.PhotometricInterpretation == "MONOCHROME1" else values).astype(np.uint16)


def itk(path: Path) -> SimpleITK.Image:
    if not path.is_dir():
        return SimpleITK.ReadImage(str(path))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


def same_words(row: dict[str, Any], item: dict[str, str], dataset: ShardedDataset) -> None:
    np.testing.assert_array_equal(row["labels"], [float(item[name]) for name in dataset.info.label_names])
    known = {name: item[name] for name in ("sex", "view") if name in item} | {"age": str(min(int(item["age"]), 90))}
    assert dict(row["attributes"]) == known


@pytest.mark.parametrize("made", ["phantom_cxr"], indirect=True)
def test_every_radiograph_arrives(made: SimpleNamespace) -> None:
    rows = made.dataset.table.to_pylist()
    assert len({row["study"] for row in rows}) == len(rows)
    assert sum(bool(row["boxes"]) for row in rows) == len({box["file"] for box in made.boxes})
    by_pixels = {decode(made.dataset.read(n), "png").tobytes(): n for n in range(len(rows))}
    for item in made.listed:
        number = by_pixels.pop(shown(made.source / item["file"]).tobytes())
        row, ds = rows[number], pydicom.dcmread(made.source / item["file"], stop_before_pixels=True)
        same_words(row, item, made.dataset)
        assert row["spacing"] == pytest.approx([float(v) for v in ds.PixelSpacing])
        assert {box["label"] for box in row["boxes"]} <= {n for n in made.dataset.info.label_names if item[n] == "1"}
        assert decode(made.dataset.read_mask(number) or b"", "png").max() == 255


CT = ["phantom_ct", pytest.param("phantom_abdomen", marks=pytest.mark.system)]


@pytest.mark.parametrize("made", CT, indirect=True)
def test_every_volume_arrives(made: SimpleNamespace) -> None:
    rows = made.dataset.table.to_pylist()
    by_voxels = {decode(made.dataset.read(n), "b2nd").tobytes(): n for n in range(len(rows))}
    for item in made.listed:
        image, mask = itk(made.source / item["file"]), itk(made.source / item["mask"])
        number = by_voxels.pop(SimpleITK.GetArrayFromImage(image).tobytes())  # HU, axial: nothing is turned or scaled
        row, marked = rows[number], decode(made.dataset.read_mask(number) or b"", "b2nd")
        same_words(row, item, made.dataset)
        np.testing.assert_array_equal(marked, SimpleITK.GetArrayFromImage(mask))
        np.testing.assert_allclose(row["spacing"], image.GetSpacing()[::-1], rtol=1e-5)
        boxes = [box for box in made.boxes if box["file"] == item["file"]]
        assert [box["label"] for box in row["boxes"]] == [box["label"] for box in boxes]
        for got, box in zip(row["boxes"], boxes, strict=True):
            z, y, x, d, h, w = (got[k] for k in "zyxdhw")
            np.testing.assert_allclose((z, y, x, d, h, w), [float(box[k]) for k in "zyxdhw"], atol=0.01)
            assert (marked[int(z) : int(z + d), int(y) : int(y + h), int(x) : int(x + w)] == FINDING).any()


@pytest.mark.parametrize("made", ["phantom_ct"], indirect=True)
def test_no_value_that_identifies_is_in_any_byte(made: SimpleNamespace, tmp_path: Path) -> None:
    values = {PRIVATE_CREATOR}
    for path in made.source.rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        values |= {str(header[tag].value) for tag in IDENTIFYING if tag in header and header[tag].value}
        values |= {str(element.value) for element in header if element.tag.is_private}
    parts = {part for value in values for part in re.split(r"[\^ ]", value) if len(part) > 5}
    parts -= {"Phantom", "Archive"}  # the latter is in a term of Croissant: unArchive
    assert len(parts) > 100
    plain = tmp_path / "plain.parquet"
    pq.write_table(made.dataset.table, plain, compression="none", use_dictionary=False)
    for path in (plain, *made.dataset.root.iterdir()):
        content = path.read_bytes()
        assert not [part for part in parts if part.encode() in content], path


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises((UserError, ArgumentError), match=r"kind: expected .*; did you mean 'thorax'"):
        PhantomCT(None, 1, 0, 64, "torax", "dicom")
