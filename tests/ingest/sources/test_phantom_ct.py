"""Phantom CT on its way through sharding: voxels, boxes and masks arrive, identities do not."""

import csv
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from omegaconf import OmegaConf

from dira_scale.config.compose import compose
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.ingest.convert import convert
from dira_scale.ingest.sources.phantom_ct import PhantomCT
from dira_scale.phantom.ct.study import FINDING
from dira_scale.phantom.dicom import IDENTIFYING, PRIVATE_CREATOR
from dira_scale.pixels.codecs import decode

# The first patient has two studies, the second one; in the abdomen each has one.
SEEDS = {"phantom_ct": 4, "phantom_abdomen": 6}


def shards(folder: Path, recipe: str) -> tuple[Path, ShardedDataset]:
    """Two patients, made where the command is given; (what was made, their dataset)."""
    keys = ["recipe.patients=2", "recipe.size=48", f"recipe.seed={SEEDS[recipe]}"]
    config = compose("shard", [f"recipe={recipe}", "out=shards", *keys])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        convert(OmegaConf.to_container(config.recipe, resolve=True), Path("shards"), workers=1)
    (source,) = (folder / "out" / "phantom_ct").iterdir()
    return source, ShardedDataset.open(folder / "shards")


def read(path: Path) -> SimpleITK.Image:
    if not path.is_dir():
        return SimpleITK.ReadImage(str(path))
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


@pytest.mark.parametrize("recipe", ["phantom_ct", pytest.param("phantom_abdomen", marks=pytest.mark.system)])
def test_voxels_masks_boxes_and_labels_arrive(recipe: str, tmp_path: Path) -> None:
    source, dataset = shards(tmp_path, recipe)
    listed, boxed = (list(csv.DictReader((source / f"{name}.csv").open())) for name in ("labels", "boxes"))
    rows = dataset.table.to_pylist()
    assert len(rows) == len(listed) and dataset.info.quarantined == 0 and boxed
    assert len({row["patient"] for row in rows}) == 2
    volumes = [decode(dataset.read(n), "b2nd") for n in range(len(rows))]
    by_voxels = {voxels.tobytes(): n for n, voxels in enumerate(volumes)}
    for item in listed:
        image, mask = read(source / item["file"]), read(source / item["mask"])
        number = by_voxels.pop(SimpleITK.GetArrayFromImage(image).tobytes())  # HU, axial: nothing is turned or scaled
        row = rows[number]
        marked = decode(dataset.read_mask(number) or b"", "b2nd")
        np.testing.assert_array_equal(marked, SimpleITK.GetArrayFromImage(mask))
        np.testing.assert_allclose(row["spacing"], image.GetSpacing()[::-1], rtol=1e-5)
        np.testing.assert_array_equal(row["labels"], [float(item[name]) for name in dataset.info.label_names])
        assert dict(row["attributes"]) == {"age": str(min(int(item["age"]), 90)), "sex": item["sex"]}
        boxes = [box for box in boxed if box["file"] == item["file"]]
        assert [box["label"] for box in row["boxes"]] == [box["label"] for box in boxes]
        for got, box in zip(row["boxes"], boxes, strict=True):
            z, y, x, d, h, w = (got[k] for k in "zyxdhw")
            np.testing.assert_allclose((z, y, x, d, h, w), [float(box[k]) for k in "zyxdhw"], atol=0.01)
            block = marked[int(z) : int(z + d), int(y) : int(y + h), int(x) : int(x + w)]
            assert (block == FINDING).any()
    if recipe == "phantom_ct":
        _no_identity_is_left(source, tmp_path / "shards")


def _no_identity_is_left(source: Path, out: Path) -> None:
    values = {PRIVATE_CREATOR}
    for path in source.rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        values |= {str(header[tag].value) for tag in IDENTIFYING}
    parts = {part for value in values for part in value.replace("^", " ").split() if len(part) > 5} - {"Phantom"}
    assert len(parts) > 100
    for path in out.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [part for part in parts if part.encode() in content], path


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"recipe.kind=torax; did you mean 'thorax'"):
        PhantomCT(None, 1, 0, 64, "torax", "dicom")
