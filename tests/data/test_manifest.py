"""Opening and reading a sharded dataset, written here by hand with tarfile and pyarrow."""

import hashlib
import io
import json
import os
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dira_scale.data.manifest import SCHEMA, DatasetError, DatasetInfo, ShardedDataset

PAYLOADS = [b"first payload", b"second", b"third, in val"]
SPLITS = ["train", "train", "val"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rows = []
    for split in ("train", "val"):
        with tarfile.open(tmp_path / f"{split}-000000.tar", "w") as tar:
            for number, payload in enumerate(PAYLOADS):
                if SPLITS[number] != split:
                    continue
                for suffix, content in ((".png", payload), (".mask.png", b"mask" if number == 1 else None)):
                    if content is not None:
                        member = tarfile.TarInfo(f"k{number}{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
        with tarfile.open(tmp_path / f"{split}-000000.tar") as tar:
            members = {m.name: m for m in tar}
        for number in [n for n in range(3) if SPLITS[n] == split]:
            member, mask = members[f"k{number}.png"], members.get(f"k{number}.mask.png")
            rows.append(
                dict.fromkeys(SCHEMA.names)
                | {"key": f"k{number}", "split": split, "patient": f"p{number}", "study": "s", "codec": "png"}
                | {"shard": f"{split}-000000.tar", "offset": member.offset_data, "size": member.size}
                | {"channels": 1, "height": 4, "width": 5, "depth": 1, "bits": 8, "low": 0.0, "high": 255.0}
                | {"labels": [float(number), float("nan")], "xxh3": f"{number:016x}", "attributes": {"sex": "F"}}
                | {"boxes": [{"label": "a", "y": 1.0, "x": 2.0, "h": 3.0, "w": 4.0, "z": 0.0, "d": 1.0}]}
                | ({"mask_offset": mask.offset_data, "mask_size": mask.size} if mask else {})
            )
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), tmp_path / "manifest.parquet")
    info = DatasetInfo(
        name="toy", modality="CXR", dims=2, codec="png", label_names=["a", "b"], counts={"train": 2, "val": 1},
        quarantined=0, shards={s.name: s.stat().st_size for s in tmp_path.glob("*.tar")}, recipe={}, recipe_hash="r",
        licence="none", tool_version="0",
    )  # fmt: skip
    (tmp_path / "dataset.json").write_text(info.to_json())
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
    assert opened.table["boxes"][0].as_py() == [
        {"label": "a", "y": 1.0, "x": 2.0, "h": 3.0, "w": 4.0, "z": 0.0, "d": 1.0}
    ]


def test_hash_is_of_the_content_not_of_parquet(dataset: Path) -> None:
    first = ShardedDataset.open(dataset).hash
    text = "".join(f"k{n} {SPLITS[n]} {n:016x}\n" for n in range(3))
    assert first == hashlib.sha256(text.encode()).hexdigest()
    table = pq.read_table(dataset / "manifest.parquet")
    pq.write_table(table, dataset / "manifest.parquet", compression="none", row_group_size=1)
    assert ShardedDataset.open(dataset).hash == first


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
            patch.setattr("dira_scale.data.manifest.dataset.os.open", meet)
            patch.setattr("dira_scale.data.manifest.dataset.os.pread", linger)
            assert list(pool.map(opened.read, rows)) == [PAYLOADS[row] for row in rows]


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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


@pytest.mark.parametrize(
    ("column", "value", "printed"),
    [
        ("key", "../../x", "a key that is not of letters"),
        ("key", "\x1b]0;x", "a key that is not of letters"),
        ("key", "a" * 300, "a key that is not of letters"),
        ("height", 0, "height is 0, not from 1"),
        ("width", 2**31 - 1, "width is 2147483647, not from 1"),
        ("bits", 77, "bits is 77, not 8 or 16"),
        ("low", 1e9, "low is above high"),
        ("high", float("inf"), "high is not finite"),
        ("spacing", [1.0, float("inf")], "spacing is not finite"),
        ("labels", [float("inf")], "a label is infinite"),
    ],
)
def test_what_no_sample_is_is_refused_before_anything_is_decoded(
    dataset: Path, column: str, value: Any, printed: str
) -> None:
    """A stranger's manifest: keys that leave a folder, sizes that take gigabytes, numbers that are none."""
    path = dataset / "manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0][column] = value if column != "labels" else value * len(rows[0]["labels"])
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    with pytest.raises(DatasetError, match=printed):
        ShardedDataset.open(dataset)


def test_a_field_that_is_absent_is_named(dataset: Path) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    del content["codec"]
    (dataset / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="lacks codec: shard again"):
        ShardedDataset.open(dataset)


def test_an_unknown_split_names_the_known(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'test', only train, val"):
        ShardedDataset.open(dataset).rows("test")


def test_a_runs_folder_is_no_dataset_and_is_called_what_it_is(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(DatasetError, match="is a run's folder, not a sharded dataset"):
        ShardedDataset.open(tmp_path)


def test_an_image_of_too_many_pixels_is_refused(dataset: Path) -> None:
    path = dataset / "manifest.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[0] |= {"height": 2**14, "width": 2**13}
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    with pytest.raises(DatasetError, match=r"an image of 1.34e\+08 pixels, more than 67108864"):
        ShardedDataset.open(dataset)
