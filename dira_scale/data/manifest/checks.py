"""Checks of datasets from untrusted sources: printable texts, rows within their shards."""

import re
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from dira_scale.data.manifest.schema import INFO_FILE
from dira_scale.pixels.codecs import CODECS

SHARD = re.compile(r"(?:[^/\0]{1,255}/)*[^/\0]{1,250}\.(?:tar|beton)")  # relative to the dataset's folder
SPLIT = re.compile(r"[\w-]{1,200}", re.ASCII)
LONGEST_TEXT = 1000
NEVER_NULL = (
    "key", "split", "patient", "shard", "offset", "size", "codec", "channels", "height", "width", "bits", "low", "high",
    "labels", "xxh3",
)  # fmt: skip


def is_shown(text: str) -> bool:
    """Whether ``text`` is safe to print: others may hold terminal control sequences."""
    return len(text) <= LONGEST_TEXT and text.isprintable()


def wrong_rows(table: pa.Table, dims: int, counts: Mapping[str, int], shards: Mapping[str, int]) -> str | None:
    """The first fault of a manifest's rows, None if there is none. ``shards``: their sizes in bytes.

    Raises ArrowInvalid where an offset and a size are too large to be added.
    """
    for name in (*NEVER_NULL, *(["depth"] if dims == 3 else [])):
        if table[name].null_count:
            return f"rows without {name}"
    if table["affine"].null_count != (table.num_rows if dims == 2 else 0):
        return f"samples of other dimensions than {dims}"
    if table.num_rows and not pc.all(pc.and_(pc.is_finite(table["low"]), pc.is_finite(table["high"]))).as_py():
        return "low or high is not finite"
    if unknown := set(pc.unique(table["codec"]).to_pylist()) - CODECS.keys():
        return f"unknown codec {unknown.pop()[:60]!r}"
    if unknown := set(pc.unique(table["split"]).to_pylist()) - counts.keys():
        return f"split {unknown.pop()[:60]!r} is not in {INFO_FILE}"
    for offset, size in (("offset", "size"), ("mask_offset", "mask_size")):
        ends = table.select(["shard", offset, size]).append_column("end", pc.add_checked(table[offset], table[size]))
        extents = ends.group_by("shard").aggregate([("end", "max"), (offset, "min"), (size, "min")])
        for row in extents.to_pylist():
            if row["shard"] not in shards:
                return f"shard {row['shard'][:60]!r} is not in {INFO_FILE}"
            if row["end_max"] is None:  # no masks
                continue
            if min(row[f"{offset}_min"], row[f"{size}_min"]) < 0 or row["end_max"] > shards[row["shard"]]:
                return f"samples outside shard {row['shard']}"
    return None
