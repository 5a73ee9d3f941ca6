"""Datasets of made-up rows, as many as one likes: a manifest, its description and its index, without the shards."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.dataset.manifest import SCHEMA, DatasetInfo
from dira_scale.dataset.manifest.index_files import write_index

GROUP = 2**14  # rows of a row group, as conversions write them
LABELS = 14
SIZE = 100_000  # bytes of an image in its shard, at most


def made_up(folder: Path, rows: int, per_shard: int = 1000, of_patient: int = 4, index: bool = True) -> Path:
    """Radiographs: the last hundredth is val, each patient has ``of_patient`` neighbouring ones in two studies, a fifth
    of the labels is positive."""
    folder.mkdir(parents=True)
    counts = {"train": rows - rows // 100, "val": rows // 100}
    starts = {"train": 0, "val": counts["train"]}
    dice, shards = np.random.default_rng(0), dict[str, int]()
    with pq.ParquetWriter(folder / "manifest.parquet", SCHEMA, compression="zstd") as writer:
        for split, count in counts.items():
            of = [f"{split}-{number:06d}.tar" for number in range(-(-count // per_shard))]
            shards |= dict.fromkeys(of, per_shard * SIZE)
            for first in range(0, count, GROUP):
                place = np.arange(first, min(first + GROUP, count))
                row = place + starts[split]
                writer.write_table(
                    _group(split, row, place % per_shard, np.array(of)[place // per_shard], of_patient, dice)
                )
    info = DatasetInfo(
        name="made up", modality="DX", dims=2, codec="jpg", label_names=[f"l{n}" for n in range(LABELS)], counts=counts,
        quarantined=0, shards=shards, recipe={"_target_": "x", "hash_key": "k"}, recipe_hash="x", licence="none",
        tool_version="0", checksums={name: f"{number:016x}" for number, name in enumerate(shards)},
    )  # fmt: skip
    (folder / "dataset.json").write_text(info.to_json())
    if index:
        write_index(folder / "manifest.parquet", info, folder / "manifest.index")
    return folder


def _group(
    split: str, row: np.ndarray, within: np.ndarray, shard: np.ndarray, of_patient: int, dice: np.random.Generator
) -> pa.Table:
    n = len(row)
    known = {
        "key": _names(row, 24), "split": [split] * n, "patient": _names(row // of_patient, 24),
        "study": _names(row // 2, 24), "shard": shard, "offset": within * SIZE,
        "size": dice.integers(SIZE // 2, SIZE, n), "codec": ["jpg"] * n,
        "channels": np.ones(n), "height": dice.integers(512, 1024, n),
        "width": dice.integers(512, 1024, n), "depth": np.ones(n), "bits": np.full(n, 8), "low": np.zeros(n),
        "high": np.full(n, 255.0), "xxh3": _names(row, 16), "spacing": _lists(np.full((n, 2), 0.2)),
        "labels": _lists(dice.random((n, LABELS)) < 0.2), "boxes": [[]] * n, "attributes": [[("view", "PA")]] * n,
    }  # fmt: skip
    columns = [known.get(field.name, pa.nulls(n, field.type)) for field in SCHEMA]
    return pa.table(
        [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], SCHEMA
    )


def _lists(values: np.ndarray) -> pa.ListArray:
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values.ravel().astype(np.float32)))


def _names(numbers: np.ndarray, digits: int) -> pa.StringArray:
    """Hexadecimal names of so many digits, each number its own, in no order."""
    scattered = (numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(">u8")
    padded = np.zeros((len(numbers), digits // 2), np.uint8)
    padded[:, : min(8, digits // 2)] = scattered.view(np.uint8).reshape(-1, 8)[:, : digits // 2]
    text = padded.tobytes().hex().encode()
    offsets = np.arange(0, (len(numbers) + 1) * digits, digits, dtype=np.int32)
    return pa.StringArray.from_buffers(len(numbers), pa.py_buffer(offsets), pa.py_buffer(text))
