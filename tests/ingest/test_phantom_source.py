"""The phantom's DICOM folder on its way through sharding: pictures, boxes and masks arrive, identities do not."""

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from omegaconf import OmegaConf

from dira_scale.config.compose import compose
from dira_scale.data.manifest import ShardedDataset
from dira_scale.ingest.convert import convert
from dira_scale.phantom.dicom import IDENTIFYING, PRIVATE_CREATOR
from dira_scale.pixels.codecs import decode


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantom patients, DICOM made where the command is given, and their shards."""
    folder = tmp_path_factory.mktemp("phantom")
    keys = ["patients=12", "size=128", "bits=16", "codec=png"]
    config = compose("shard", ["recipe=phantom_cxr", "out=shards", *(f"recipe.{key}" for key in keys)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        convert(OmegaConf.to_container(config.recipe, resolve=True), Path("shards"), workers=2)
    return folder


def test_every_study_arrives_with_its_pixels_labels_boxes_and_mask(made: Path) -> None:
    (source,) = (made / "out" / "phantom_cxr").iterdir()
    with (source / "labels.csv").open() as file:
        listed = list(csv.DictReader(file))
    with (source / "boxes.csv").open() as file:
        boxed = {row["file"] for row in csv.DictReader(file)}
    dataset = ShardedDataset.open(made / "shards")
    rows = dataset.table.to_pylist()
    assert len(rows) == len(listed) and dataset.info.quarantined == 0
    assert len({row["patient"] for row in rows}) == 12 and len({row["study"] for row in rows}) == len(rows)
    assert boxed and sum(bool(row["boxes"]) for row in rows) == len(boxed)
    by_pixels = {decode(dataset.read(n), "png").tobytes(): n for n in range(len(rows))}
    for item in listed:
        ds = pydicom.dcmread(source / item["file"])
        center, width = float(ds.WindowCenter), float(ds.WindowWidth)
        low = center - 0.5 - (width - 1) / 2
        shown = np.clip(ds.pixel_array - low, 0, width - 1)
        if ds.PhotometricInterpretation == "MONOCHROME1":
            shown = width - 1 - shown
        number = by_pixels.pop(np.rint(shown).astype(np.uint16).tobytes())
        row = rows[number]
        np.testing.assert_array_equal(row["labels"], [float(item[name]) for name in dataset.info.label_names])
        age = str(min(int(item["age"]), 90))
        assert dict(row["attributes"]) == {"age": age, "sex": item["sex"], "view": item["view"]}
        assert row["spacing"] == pytest.approx([float(v) for v in ds.PixelSpacing])
        assert {box["label"] for box in row["boxes"]} <= {n for n in dataset.info.label_names if item[n] == "1"}
        assert decode(dataset.read_mask(number) or b"", "png").max() == 255


def test_no_value_that_identifies_is_in_any_byte(made: Path) -> None:
    values = {PRIVATE_CREATOR}
    for path in (made / "out").rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        values |= {str(header[tag].value) for tag in IDENTIFYING if tag in header and header[tag].value}
        values |= {str(element.value) for element in header if element.tag.is_private}
    parts = {part for value in values for part in re.split(r"[\^ ]", value) if len(part) > 4} - {"Phantom"}
    assert len(parts) > 100
    table = pq.read_table(made / "shards" / "manifest.parquet")
    pq.write_table(table, made / "shards" / "plain.parquet", compression="none", use_dictionary=False)
    for path in (made / "shards").iterdir():
        content = path.read_bytes()
        assert not [part for part in parts if part.encode() in content], path


def test_images_made_earlier_give_the_same_shards(made: Path, tmp_path: Path, ingest: SimpleNamespace) -> None:
    (source,) = (made / "out" / "phantom_cxr").iterdir()
    config = ingest.recipe("phantom_cxr") | {"images": str(source), "codec": "png", "bits": 16}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DIRA_SCALE_HASH_KEY")
        convert(config, tmp_path / "again", workers=1)
    assert ShardedDataset.open(tmp_path / "again").hash == ShardedDataset.open(made / "shards").hash
