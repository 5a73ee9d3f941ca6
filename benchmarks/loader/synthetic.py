"""Datasets with as many rows and shards as one likes: a real manifest's rows repeated, pointing into one small tar."""

import contextlib
import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from dira_scale.data.manifest import INFO_FILE, MANIFEST_FILE, ShardedDataset
from dira_scale.data.manifest.writer import ROWS
from dira_scale.shard import main as shard

IMAGES, SIDE = 16, 64
CHUNK = 2**20  # rows made at once


def small(folder: Path) -> ShardedDataset:
    """16 tiny JPEGs in one tar, by ``shard``."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = np.kron(rng.integers(0, 256, (8, 8)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:02d}.png")
    with contextlib.redirect_stdout(io.StringIO()):
        code = shard(
            ["recipe=folder", f"recipe.images={folder / 'images'}", f"out={folder / 'small'}", "recipe.codec=jpg",
             "recipe.secret=false", "recipe.burned_in=keep", "recipe.splits={train: 1, val: 0, test: 0}", "workers=1"]
        )  # fmt: skip
    assert code == 0
    return ShardedDataset.open(folder / "small")


def enlarge(base: ShardedDataset, out: Path, rows: int, shards: int) -> Path:
    """A dataset of ``rows`` samples in ``shards`` tars, all of them hard links to the one of ``base``."""
    out.mkdir(parents=True)
    ((tar, size),) = base.info.shards.items()
    names = [f"train-{number:06d}.tar" for number in range(shards)]
    for name in names:
        os.link(base.file(tar), out / name)
    with pq.ParquetWriter(out / MANIFEST_FILE, base.table.schema, compression="zstd") as writer:
        for first in range(0, rows, CHUNK):
            numbers = np.arange(first, min(first + CHUNK, rows))
            writer.write_table(_chunk(base.table, numbers, numbers * shards // rows, names), row_group_size=ROWS)
    counts = dict.fromkeys(base.info.counts, 0) | {"train": rows}
    info = replace(base.info, counts=counts, shards=dict.fromkeys(names, size), checksums={})
    (out / INFO_FILE).write_text(info.to_json())
    return out


def _chunk(table: pa.Table, numbers: np.ndarray, shard: np.ndarray, names: list[str]) -> pa.Table:
    """Rows ``numbers``: names of their own, payloads of the ``table``'s."""
    mine = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), 24, "0")
    columns = {"key": mine, "patient": mine, "study": mine, "shard": pa.array(names).take(pa.array(shard))}
    chunk = table.take(pa.array(numbers % table.num_rows))
    for name, column in columns.items():
        chunk = chunk.set_column(chunk.schema.get_field_index(name), table.schema.field(name), column)
    return chunk
