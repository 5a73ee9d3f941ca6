"""The index of a large manifest: the same as reading the manifest, made once, and never of another manifest."""

import hashlib
import io
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile

from dira_scale.base.storage import node
from dira_scale.dataset.manifest import SCHEMA, DatasetError, DatasetInfo, ShardedDataset, index_files, parquet, scan
from dira_scale.dataset.manifest.scan import Scan

ROWS, SIZE = 300, 10_000
SHARDS = ["b.tar", "a.tar", "../beside/c.tar"]
Row = dict[str, Any]


def rows_of(count: int) -> list[Row]:
    """Splits and shards in no order, some masks, some unknown labels."""
    rng = np.random.default_rng(7)
    rows = []
    for number in range(count):
        known = dict.fromkeys(SCHEMA.names) | {"key": f"k{number:05}", "patient": f"p{number // 3}", "study": "s"}
        known |= {"split": str(rng.choice(["val", "train", "test"])), "shard": str(rng.choice(SHARDS))}
        known |= {"codec": str(rng.choice(["png", "jpg"])), "bits": int(rng.choice([8, 16])), "channels": 1}
        known |= {name: int(rng.integers(1, 99)) for name in ("offset", "size", "height", "width")} | {"depth": 1}
        known |= {"low": float(number), "high": 999.5, "labels": [0.5, None if number % 5 else float(number)]}
        known |= {"mask_offset": 7, "mask_size": number} if number % 4 == 0 else {}
        known |= {"study": None} if number % 7 == 0 else {"study": f"s{number % 11}"}
        known |= {"xxh3": f"{rng.integers(2**63):016x}", "attributes": [("n", str(number))]}
        rows.append(known)
    return rows


def box(**sides: float | None) -> list[Row]:
    """A box of the image's first pixel."""
    return [{"label": "a", "y": 0, "x": 0, "h": 1, "w": 1, "z": 0, "d": 1} | sides]


def put(folder: Path, rows: list[Row], times: int = 1, **described: Any) -> Path:
    """A dataset of ``rows``, ``times`` over, without shards."""
    (folder / "set").mkdir(exist_ok=True)
    table = pa.concat_tables([pa.Table.from_pylist(rows, SCHEMA)] * times)
    pq.write_table(table, folder / "set" / "manifest.parquet", row_group_size=70 * times)
    splits = [row["split"] for row in rows] * times
    fields = {"name": "toy", "modality": "CXR", "dims": 2, "codec": "png", "label_names": ["a", "b"]} | {
        "counts": {split: splits.count(split) for split in ("train", "val", "test")},
        "quarantined": 0, "shards": dict.fromkeys(SHARDS, SIZE), "recipe": {}, "recipe_hash": "", "licence": "",
        "tool_version": "0",
    }  # fmt: skip
    (folder / "set" / "dataset.json").write_text(DatasetInfo(**fields | described).to_json())
    return folder / "set"


def opened(location: Path | str) -> ShardedDataset:
    return ShardedDataset.open(location, check_shards=False)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own. Batches are small, so that a manifest has several."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parquet, "ROWS", 64)
    return tmp_path / "cache" / "dira_scale" / "manifests"


@pytest.fixture
def filed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every manifest is large enough for an index in a file."""
    monkeypatch.setattr(index_files, "LARGE", 1)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for each file of an index that was written."""
    seen, write = list[str](), Scan.write

    def counted(self: Scan, file: Any, checksum: bool = False) -> None:
        seen.append(str(self.manifest.path))
        write(self, file, checksum)

    monkeypatch.setattr(Scan, "write", counted)
    return seen


def check_same(dataset: ShardedDataset, rows: list[Row]) -> None:
    """All that the dataset says, against the rows that were written."""
    for name in ("offset", "size", "height", "width", "low", "high", "channels", "bits", "codec", "shard", "key",
                 "depth"):  # fmt: skip
        assert dataset.column(name).tolist() == [row[name] for row in rows], name
        assert dataset.cell(name, 211) == rows[211][name] and type(dataset.cell(name, 3)) is type(rows[3][name])
    for split in ("train", "val", "test"):
        numbers = [number for number, row in enumerate(rows) if row["split"] == split]
        assert dataset.rows(split).tolist() == numbers and dataset.rows(split).dtype == np.int64
        kinds = {(rows[n]["codec"], rows[n]["channels"], rows[n]["bits"]) for n in numbers}
        assert dataset.kinds(split) == sorted(kinds)
    for name in ("codec", "shard"):
        codes, words = dataset.codes(name)
        assert [words[code] for code in codes] == [row[name] for row in rows]
    assert dataset.checksums.tolist() == [int(row["xxh3"], 16) for row in rows]
    labels = np.array([row["labels"] for row in rows], np.float32)
    np.testing.assert_array_equal(dataset.labels(np.arange(len(rows))[::-1]), labels[::-1])
    masks = [(-1, -1) if row["mask_size"] is None else (row["mask_offset"], row["mask_size"]) for row in rows]
    assert dataset.index.records[["mask_offset", "mask_size"]].tolist() == masks
    text = "".join(f"{row['key']} {row['split']} {row['xxh3']}\n" for row in rows)
    assert dataset.hash == hashlib.sha256(text.encode()).hexdigest()
    for name, (codes, names) in (("patient", dataset.patients), ("study", dataset.studies)):
        assert [None if code < 0 else names[code] for code in codes.tolist()] == [row[name] for row in rows]
        assert len(names) == len(set(names.array().to_pylist()))
    assert dataset.column("patient").tolist() == [row["patient"] for row in rows]
    for shard in SHARDS:
        assert dataset.rows_in(shard).tolist() == [number for number, row in enumerate(rows) if row["shard"] == shard]
    assert dataset.table["attributes"].to_pylist() == [row["attributes"] for row in rows]
    assert dataset.cell("attributes", 250) == rows[250]["attributes"]


def test_in_memory_it_says_what_the_manifest_says(tmp_path: Path, cache: Path) -> None:
    rows = rows_of(ROWS)
    check_same(opened(put(tmp_path, rows)), rows)
    assert not cache.exists()  # a small dataset leaves no file


def test_in_a_file_too_which_is_written_once(tmp_path: Path, filed: None, writes: list[str], cache: Path) -> None:
    rows = rows_of(ROWS)
    location = put(tmp_path, rows)
    for _ in range(3):
        check_same(opened(location), rows)
    assert len(writes) == 1 and [path.suffix for path in cache.iterdir()] == [".index"]


def test_a_changed_manifest_is_read_again(tmp_path: Path, filed: None, writes: list[str]) -> None:
    rows = rows_of(ROWS)
    location = put(tmp_path, rows)
    opened(location)
    status = (location / "manifest.parquet").stat()
    rows[5]["xxh3"] = rows[5]["xxh3"][::-1]
    put(tmp_path, rows)
    os.utime(location / "manifest.parquet", ns=(status.st_atime_ns, status.st_mtime_ns))
    check_same(opened(location), rows)
    assert len(writes) == 2


def test_a_changed_description_is_checked_again(tmp_path: Path, filed: None) -> None:
    rows = rows_of(ROWS)
    opened(put(tmp_path, rows))
    with pytest.raises(DatasetError, match=r"samples outside shard"):
        opened(put(tmp_path, rows, shards=dict.fromkeys(SHARDS, 100)))
    with pytest.raises(DatasetError, match="rows do not have 1 labels each"):
        opened(put(tmp_path, rows, label_names=["a"]))


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: bytes(len(content)), lambda _: b""])
def test_a_damaged_index_is_made_again(
    tmp_path: Path, filed: None, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    rows = rows_of(ROWS)
    location = put(tmp_path, rows)
    opened(location)
    (path,) = cache.glob("*.index")
    path.write_bytes(damage(path.read_bytes()))
    check_same(opened(location), rows)


FAULTS: dict[str, tuple[Row, str]] = {
    "no key": ({"key": None}, "rows without key"),
    "a volume": ({"affine": [1.0] * 16}, "other dimensions than 2"),
    "codec": ({"codec": "pickle"}, "unknown codec 'pickle'"),
    "split": ({"split": "nobody"}, "split 'nobody' is not in"),
    "shard": ({"shard": "../secret"}, "shard '../secret' is not in"),
    "outside": ({"offset": SIZE}, "samples outside shard"),
    "sum too large": ({"offset": 2**62, "size": 2**62}, "samples outside shard"),
    "mask outside": ({"mask_offset": SIZE, "mask_size": 1}, "samples outside shard"),
    "labels": ({"labels": [1.0]}, "rows do not have 2 labels each"),
    "checksum": ({"xxh3": "no hex digits :("}, "on-hexadecimal digit"),
    "short checksum": ({"xxh3": "12"}, "xxh3 is not 16 hexadecimal digits"),
    # A stranger's: keys that leave a folder, sizes that take gigabytes, numbers that are none.
    "a path": ({"key": "../../x"}, "a key that is not of letters"),
    "a long key": ({"key": "a" * 300}, "a key that is not of letters"),
    "a key like an option": ({"key": "-rf"}, "a key that is not of letters"),
    "no height": ({"height": 0}, "height is 0, not from 1"),
    "a huge width": ({"width": 2**31 - 1}, "width is 2147483647, not from 1"),
    "many pixels": ({"height": 2**14, "width": 2**13}, "an image of 1.34e+08 pixels, more than 67108864"),
    "bits": ({"bits": 77}, "bits is 77, not 8 or 16"),
    "a low as high": ({"low": 999.5}, "low is not below high"),
    "an infinite high": ({"high": float("inf")}, "high is not finite"),
    "an infinite spacing": ({"spacing": [1.0, float("inf")]}, "spacing is not finite"),
    "a spacing of three": ({"spacing": [1.0] * 3}, "spacing is not of 2 numbers"),
    "a spacing of 0": ({"spacing": [1.0, 0.0]}, "spacing is not above 0 and at most 1000 mm"),
    "a spacing of a mile": ({"spacing": [1.0, 1.6e6]}, "spacing is not above 0 and at most 1000 mm"),
    "half a spacing": ({"spacing": [1.0, None]}, "spacing is not finite"),
    "a box beyond": ({"boxes": box(x=300)}, "a box that is not inside its image"),
    "a box of NaN": ({"boxes": box(w=float("nan"))}, "a box that is not inside its image"),
    "a box without a side": ({"boxes": box(h=None)}, "a box that is not inside its image"),
    "a box of negative extent": ({"boxes": box(h=-1)}, "a box that is not inside its image"),
    "a box of a volume": ({"boxes": box(z=90)}, "a box that is not inside its image"),
    "the last of two boxes": ({"boxes": [*box(), *box(x=300)]}, "a box that is not inside its image"),
    "an infinite label": ({"labels": [0.0, float("inf")]}, "a label is infinite"),
}


@pytest.mark.parametrize(
    ("fault", "large"), [*((fault, False) for fault in FAULTS), ("no key", True), ("checksum", True), ("labels", True)]
)
def test_a_fault_in_the_last_row_is_found(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, fault: str, large: bool
) -> None:
    monkeypatch.setattr(index_files, "LARGE", 1 if large else ROWS + 1)
    rows = rows_of(ROWS)
    counts = {split: [row["split"] for row in rows].count(split) for split in ("train", "val", "test")}
    rows[-1] |= FAULTS[fault][0]
    for _ in range(2):  # what is refused once is not accepted later
        with pytest.raises(DatasetError, match=r"manifest.parquet is damaged") as caught:
            opened(put(tmp_path, rows, counts=counts))
        assert FAULTS[fault][1] in str(caught.value)
    assert not list(cache.glob("*.*"))


def test_processes_that_open_at_once_make_one_index(tmp_path: Path, filed: None, writes: list[str]) -> None:
    """Threads here: a lock belongs to an open file, and each opens its own."""
    rows, together = rows_of(ROWS), Barrier(8)
    location = put(tmp_path, rows)

    def meet(_: int) -> str:
        together.wait(30)
        return opened(location).hash

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(meet, range(8)))) == 1
    assert len(writes) == 1


def test_an_index_that_no_disk_keeps_costs_memory_and_says_so(
    tmp_path: Path, filed: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a huge manifest each process would take too much."""
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setattr(node, "_places", lambda: [(tmp_path / "cache", False)])
    rows = rows_of(ROWS)
    location = put(tmp_path, rows)
    with caplog.at_level(logging.WARNING):
        check_same(opened(location), rows)
    assert "can keep its index" in caplog.text and "XDG_CACHE_HOME" in caplog.text
    monkeypatch.setattr(index_files, "HUGE", ROWS - 1)
    with pytest.raises(DatasetError, match=r"no folder of this machine can keep its index .* set XDG_CACHE_HOME"):
        opened(location)


def test_an_index_that_nobody_opens_is_removed(
    tmp_path: Path, filed: None, cache: Path, writes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(ROWS)
    location = put(tmp_path, rows)
    opened(location)
    (old,) = cache.glob("*.index")
    os.utime(old, (0, 0))
    opened(location)
    assert time.time() - old.stat().st_mtime < 60  # opening counts as use
    os.utime(old, (0, 0))
    rows[0]["low"] = 1.0
    opened(put(tmp_path, rows))
    assert not old.exists() and len(list(cache.glob("*.index"))) == 1


def test_what_is_read_late_is_of_the_manifest_that_was_opened(tmp_path: Path) -> None:
    rows = rows_of(ROWS)
    dataset = opened(put(tmp_path, rows))
    assert dataset.cell("key", 290) == "k00290"
    put(tmp_path, rows[::-1])
    for late in (lambda: dataset.cell("key", 290), lambda: dataset.table, lambda: dataset.column("key")):
        with pytest.raises(DatasetError, match="has been written to since it was opened"):
            late()


def test_a_store_s_manifest_is_fetched_once(tmp_path: Path, filed: None, writes: list[str]) -> None:
    rows = rows_of(ROWS)
    store = fsspec.filesystem("memory")
    store.put(f"{put(tmp_path, rows)}/*", "/bucket/index/")
    for _ in range(2):
        check_same(opened("memory://bucket/index"), rows)
    assert len(writes) == 1
    rows[3]["low"] = -5.0
    store.put(f"{put(tmp_path, rows)}/*", "/bucket/index/")
    check_same(opened("memory://bucket/index"), rows)
    assert len(writes) == 2


def test_counts_of_another_manifest_are_refused(tmp_path: Path) -> None:
    rows = rows_of(ROWS)
    rows[0]["split"], rows[1]["split"] = "train", "val"
    counts = {split: [row["split"] for row in rows].count(split) for split in ("train", "val", "test")}
    rows[0]["split"] = "val"
    with pytest.raises(DatasetError, match=rf"has {counts['train'] - 1} rows of split 'train'.*do not belong together"):
        opened(put(tmp_path, rows, counts=counts))


def own(location: Path) -> Path:
    """The index that a conversion writes."""
    index_files.write_index(
        location / "manifest.parquet", ShardedDataset.open(location, False).info, path := location / "manifest.index"
    )
    return path


@pytest.fixture(params=[False, True], ids=["in memory", "a node's file"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_files, "LARGE", 1 if request.param else ROWS + 1)


@pytest.mark.parametrize("parts", [1, 5])
def test_a_dataset_s_own_index_is_read_instead_of_the_manifest(
    tmp_path: Path, either: None, writes: list[str], monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Wherever both are copied to, and in however many parts their names were numbered."""
    monkeypatch.setattr(scan, "PART_ROWS", ROWS // parts)
    rows = rows_of(ROWS)
    location = put(tmp_path, sorted(rows, key=lambda row: row["shard"]) if parts > 1 else rows)
    own(location)
    writes.clear()
    moved = location.rename(tmp_path / "moved")
    check_same(opened(moved), sorted(rows, key=lambda row: row["shard"]) if parts > 1 else rows)
    assert not writes


def test_in_a_store_only_the_end_of_the_manifest_is_fetched(
    tmp_path: Path, either: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "TAIL", 100)
    rows = rows_of(ROWS)
    own(location := put(tmp_path, rows, times=100))
    store = fsspec.filesystem("memory")
    store.put(f"{location}/*", f"/bucket/{tmp_path.name}/")
    fetched = list[int]()

    def counted(self: MemoryFile, *count: int) -> bytes:
        content = io.BytesIO.read(self, *count)
        fetched.append(len(content) if str(self.path).endswith("manifest.parquet") else 0)
        return content

    monkeypatch.setattr(MemoryFile, "read", counted)
    dataset = opened(f"memory://bucket/{tmp_path.name}")
    assert 0 < sum(fetched) < 250
    assert dataset.hash == opened(location).hash
    fetched.clear()
    assert dataset.cell("key", 250) == rows[250]["key"]
    assert 0 < sum(fetched) < (location / "manifest.parquet").stat().st_size / 2


def test_an_index_of_another_manifest_is_not_used(
    tmp_path: Path, either: None, writes: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one of a manifest that was edited since, whose size and end are the same."""
    rows = rows_of(ROWS)
    index = own(put(tmp_path, rows)).read_bytes()
    for tail in (2**16, 8):
        monkeypatch.setattr(parquet, "TAIL", tail)
        rows[5]["xxh3"] = rows[5]["xxh3"][::-1]
        location = put(tmp_path, rows)
        (location / "manifest.index").write_bytes(index)
        os.utime(location / "manifest.index", (0, 0))
        writes.clear()
        with caplog.at_level(logging.WARNING):
            check_same(opened(location), rows)
        assert len(writes) == 1 and "it is of another manifest" in caplog.text


def test_a_stranger_s_index_reads_nothing_outside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Mutants: refused, and then made of the manifest, or with values that every reader can bear."""
    rows, dice = rows_of(ROWS), np.random.default_rng(3)
    path = own(put(tmp_path, rows))
    content, used = path.read_bytes(), 0
    for trial in range(250):
        mutant = bytearray(content)
        for place in dice.integers(len(mutant), size=dice.integers(1, 4)):
            mutant[place] = dice.integers(256)
        path.write_bytes(mutant[: dice.integers(len(mutant))] if trial % 10 == 0 else mutant)
        caplog.clear()
        dataset = opened(path.parent)
        used += "is not used" not in caplog.text
        records = dataset.index.records
        for offset, size in (("offset", "size"), ("mask_offset", "mask_size")):
            start, count = records[offset].astype(object), records[size].astype(object)
            assert ((start + count <= SIZE) & (count >= -1) & (start >= -1)).all()
        assert set(records["shard"].tolist()) <= set(range(len(SHARDS))) and (records["height"] > 0).all()
        assert all(((dataset.rows(split) >= 0) & (dataset.rows(split) < ROWS)).all() for split in dataset.splits)
        for codes, names in (dataset.patients, dataset.studies):
            assert all(isinstance(names[code], str) for code in codes.tolist() if code >= 0)
        assert all(
            (dataset.index.records["shard"][dataset.rows_in(shard)] == number).all()
            for number, shard in enumerate(SHARDS)
        )
    assert 20 < used < 230  # most bytes are of checksums and names
