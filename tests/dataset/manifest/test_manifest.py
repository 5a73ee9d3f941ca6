"""Opening and reading a sharded dataset, written here by hand."""

import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from dataset.conftest import row_of, write_dataset
from xxhash import xxh3_64_hexdigest

from dira_scale.dataset.manifest import DatasetError, ShardedDataset

PAYLOADS = [b"first payload", b"second", b"third, in val"]
SPLITS = ["train", "train", "val"]
BOX = {"label": "a", "y": 1.0, "x": 2.0, "h": 3.0, "w": 4.0, "z": 0.0, "d": 1.0}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two shards; the second sample has a mask."""
    rows, shards = [], {f"{split}-000000.tar": b"a header" for split in ("train", "val")}
    for number, (payload, split) in enumerate(zip(PAYLOADS, SPLITS, strict=True)):
        shard = f"{split}-000000.tar"
        facts = {
            "split": split, "patient": f"p{number}", "codec": "png", "shard": shard, "offset": len(shards[shard]),
            "size": len(payload), "height": 4, "width": 5, "low": 0.0, "high": 255.0,
            "xxh3": xxh3_64_hexdigest(payload), "labels": [float(number), float("nan")],
            "attributes": {"sex": "F"}, "boxes": [BOX],
        }  # fmt: skip
        shards[shard] += payload
        if number == 1:
            facts |= {"mask_offset": len(shards[shard]), "mask_size": 4}
            shards[shard] += b"mask"
        rows.append(row_of(f"k{number}", **facts))
    write_dataset(tmp_path, rows, shards, name="toy", label_names=["a", "b"])
    return tmp_path


def test_reads_payloads_masks_labels_and_splits(dataset: Path) -> None:
    opened = ShardedDataset.open(dataset)
    assert opened.splits == ["train", "val"]
    assert opened.rows("train").tolist() == [0, 1] and opened.rows("val").tolist() == [2]
    assert opened.rows("val").dtype == np.int64
    assert [opened.read(row) for row in range(3)] == PAYLOADS
    assert [opened.read_mask(row) for row in range(3)] == [None, b"mask", None]
    labels = opened.labels(np.array([2, 0]))
    assert labels.dtype == np.float32 and labels[:, 0].tolist() == [2, 0] and np.isnan(labels[:, 1]).all()
    assert opened.column("height").tolist() == [4, 4, 4]
    assert opened.table["boxes"][0].as_py() == [BOX]
    shard = dataset / "val-000000.tar"
    shard.write_bytes(shard.read_bytes().translate(bytes(255 - n for n in range(256))))
    with pytest.raises(DatasetError, match=r"sample k2 .*checksum differs"):
        ShardedDataset.open(dataset).read(2)


def test_a_store_is_read_like_a_folder(dataset: Path) -> None:
    """fsspec's store in memory; a subset beside it points into it."""
    store = fsspec.filesystem("memory")
    store.put(f"{dataset}/*", "/bucket/full/")
    here, there = ShardedDataset.open(dataset), ShardedDataset.open("memory://bucket/full")
    assert [there.read(row) for row in range(3)] == PAYLOADS and there.read_mask(1) == b"mask"
    assert there.hash == here.hash and there.file("../half/a.tar").path == there.root.parent.joinpath("half/a.tar").path
    store.rm("/bucket/full/val-000000.tar")
    with pytest.raises(DatasetError, match=r"memory://.*val-000000.tar is missing"):
        ShardedDataset.open("memory://bucket/full")


def test_threads_that_meet_in_a_cold_cache_read_their_own_sample(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All open the file at once, and the cache keeps one of the descriptors: the others must live until they are read.

    A descriptor that was closed early fails, or, opened anew by another thread, reads another file.
    """
    threads, opening = 16, os.open
    together = threading.Barrier(threads)

    def meet(path: Path, flags: int) -> int:
        together.wait(30)
        return opening(path, flags)

    def linger(descriptor: int, count: int, offset: int) -> bytes:
        together.wait(30)
        return reading(descriptor, count, offset)

    reading = os.pread
    for rows in ([0] * threads, [0, 2] * (threads // 2)):
        opened = ShardedDataset.open(dataset)
        with monkeypatch.context() as patch, ThreadPoolExecutor(threads) as pool:
            patch.setattr("dira_scale.dataset.manifest.shard_file.os.open", meet)
            patch.setattr("dira_scale.dataset.manifest.shard_file.os.pread", linger)
            assert list(pool.map(opened.read, rows)) == [PAYLOADS[row] for row in rows]


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def lose(path: Path, name: str) -> None:
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != name}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def drop_column(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["xxh3"]), path)


def drop_row(path: Path) -> None:
    pq.write_table(pq.read_table(path).slice(1), path)


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda d: (d / "dataset.json").unlink(), ["no sharded dataset", "dira_scale.shard recipe=folder"]),
        (lambda d: (d / "dataset.json").write_text("{"), ["dataset.json", "damaged"]),
        (lambda d: edit(d / "dataset.json", format_version=2), ["format version 2", "reads 3"]),
        (lambda d: lose(d / "dataset.json", "codec"), ["lacks codec: shard again"]),
        (lambda d: (d / "manifest.parquet").unlink(), ["manifest.parquet", "did not finish"]),
        (lambda d: (d / "manifest.parquet").write_bytes(b"PAR1"), ["manifest.parquet", "cannot be read"]),
        (lambda d: drop_column(d / "manifest.parquet"), ["manifest.parquet", "xxh3"]),
        (lambda d: drop_row(d / "manifest.parquet"), ["2 rows", "3 samples"]),
        (lambda d: (d / "val-000000.tar").unlink(), ["val-000000.tar", "missing"]),
        (lambda d: cut(d / "train-000000.tar"), ["train-000000.tar", "bytes instead of"]),
    ],
)
def test_what_is_wrong_is_one_error_that_names_it(dataset: Path, damage, words: list[str]) -> None:
    damage(dataset)
    with pytest.raises(DatasetError) as caught:
        ShardedDataset.open(dataset)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value)


def test_an_unknown_split_names_the_known(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'test', only train, val"):
        ShardedDataset.open(dataset).rows("test")


def test_a_runs_folder_is_no_dataset_and_is_called_what_it_is(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DatasetError, match="is a run's folder, not a sharded dataset"):
        ShardedDataset.open(tmp_path)
