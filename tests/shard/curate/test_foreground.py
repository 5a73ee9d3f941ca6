"""``foreground.parquet`` from the masks of volumes to derived datasets: by brute force against the stored masks."""

from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive import ingest
from archive.imaging.volumes import make

from dira_scale.archive.foreground import foreground_of
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.foreground import FOREGROUND_FILE, read_foreground
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.merge import merge
from dira_scale.shard.curate.subset import SubsetPart, subset
from dira_scale.shard.curate.verify import verify


def shard(folder: Path, prefix: str, masks: bool = True) -> Path:
    """Four volumes of CT, of 3 mm resampled to 2; the first two have a mask of two classes, the third an empty one."""
    rows = []
    for number in range(4):
        values = make.smooth((18, 40, 36), number)
        for name, stored in (("v", values), ("m", np.digitize(values, [200, 400]) * (number < 2))):
            image = nibabel.Nifti1Image(stored.T.astype(np.int16), np.diag([1, 1, 3, 1]))
            (folder / prefix).mkdir(parents=True, exist_ok=True)
            image.to_filename(folder / prefix / f"{prefix}{name}{number}.nii.gz")
        mask = f"{prefix}m{number}.nii.gz" if masks and number < 3 else ""
        rows.append(
            {"file": f"{prefix}v{number}.nii.gz", "patient": f"{prefix}{number}", "split": "train", "mask": mask}
        )
    columns = {"file": "file", "patient": "patient", "split": "split", "mask": "mask"}
    config = ingest.recipe("volumes", images=str(folder / prefix), modality="CT", columns=columns, shard_size=2,
                           labels=str(ingest.csv(folder / f"{prefix}.csv", rows)), secret=False)  # fmt: skip
    config["volume"] |= {"spacing": [2, 1, 1]}
    convert(config | {"name": prefix}, folder / f"{prefix}_shards", workers=1)
    return folder / f"{prefix}_shards"


def expected(dataset: ShardedDataset) -> list[dict]:
    masks = {dataset.cell("key", row): dataset.mask(row) for row in range(dataset.table.num_rows)}
    return [row for key, mask in masks.items() if mask is not None for row in foreground_of(mask, key)]


def test_it_is_of_the_stored_masks_and_goes_with_the_volumes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first, second, plain = shard(tmp_path, "a"), shard(tmp_path, "b"), shard(tmp_path, "c", masks=False)
    rows = expected(dataset := ShardedDataset.open(first))
    table = read_foreground(first)
    assert table is not None and table.to_pylist() == rows and {row["value"] for row in rows} == {1, 2}
    for row in rows:
        (at,) = np.flatnonzero(dataset.column("key") == row["key"])
        assert row["count"] == np.count_nonzero(dataset.mask(int(at)) == row["value"])
    assert read_foreground(plain) is None and not (plain / FOREGROUND_FILE).exists()
    merge([first, second, plain], tmp_path / "all", "all")
    joined, key = ShardedDataset.open(tmp_path / "all"), rows[0]["key"]
    assert len(expected(joined)) == 2 * len(rows)
    assert sorted(read_foreground(joined.root).to_pylist(), key=str) == sorted(expected(joined), key=str)  # type: ignore[union-attr]
    part = SubsetPart(fraction=0.5, seed=0, splits=("train",), where={"mask": True}, folds=None, fold=0)
    subset(joined.root, tmp_path / "part", part)
    smaller = ShardedDataset.open(tmp_path / "part")
    assert read_foreground(smaller.root).to_pylist() == expected(smaller) != []  # type: ignore[union-attr]
    assert [verify(each, workers=1) for each in (first, plain, joined.root, smaller.root)] == [[]] * 4

    rows[0]["voxels"][0] += 1
    pq.write_table(pa.Table.from_pylist(rows, table.schema), first / FOREGROUND_FILE)
    assert [(damage.key, damage.reason) for damage in verify(first, workers=1)] == [
        (key, "foreground.parquet has other voxels than its mask")
    ]
    (second / FOREGROUND_FILE).unlink()  # as of an older version
    merge([first, second], tmp_path / "older", "older")
    assert read_foreground(tmp_path / "older") is None
