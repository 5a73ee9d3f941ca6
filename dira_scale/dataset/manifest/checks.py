"""Checks of datasets from untrusted sources: printable texts, rows within their shards."""

import re
from collections.abc import Mapping
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dira_scale.dataset.manifest.schema import INFO_FILE
from dira_scale.dataset.pixels.codecs import CODECS
from dira_scale.dataset.pixels.limits import MAX_CHANNELS, MAX_PIXELS, MAX_SPACING, MAX_VOXELS

SHARD = re.compile(r"(?:[^/\0]{1,255}/)*[^/\0]{1,250}\.(?:tar|beton)")  # relative to the dataset's folder
SPLIT = re.compile(r"[\w-]{1,200}", re.ASCII)
KEY = r"^[0-9A-Za-z_][0-9A-Za-z_.-]{0,249}$"  # names of files that `predict` and `convert` write
LONGEST_TEXT = 1000
NEVER_NULL = (
    "key", "split", "patient", "shard", "offset", "size", "codec", "channels", "height", "width", "bits", "low", "high",
    "labels", "xxh3",
)  # fmt: skip


def is_shown(text: str) -> bool:
    """Return whether ``text`` is safe to print: unprintable text may hold terminal control sequences."""
    return len(text) <= LONGEST_TEXT and text.isprintable()


def _wrong_range(table: pa.Table, channels: int) -> str | None:
    """Return the first fault of ``low`` and ``high``: numbers, or lists of ``channels``, NaN where a sample lacks
    one."""
    ends = [table[name] for name in ("low", "high")]
    if channels:
        for name, column in zip(("low", "high"), ends, strict=True):
            if not pc.all(pc.equal(pc.list_value_length(column), channels)).as_py():
                return f"{name} is not of {channels} channels"
        if not pc.all(pc.equal(table["channels"], channels)).as_py():
            return f"channels is not {channels}"
        ends = [pc.list_flatten(column) for column in ends]
        lacking, both = (pc.is_nan(end).to_numpy().reshape(-1, channels) for end in ends)
        if (lacking != both).any() or lacking.all(1).any():
            return "low and high are not of the same channels, or of none"
        ends = [pc.if_else(pc.is_nan(end), lacked, end) for end, lacked in zip(ends, (0.0, 1.0), strict=True)]
    for name, column in zip(("low", "high"), ends, strict=True):
        if column.null_count or not pc.all(pc.is_finite(column)).as_py():
            return f"{name} is not finite"
    return None if pc.all(pc.less(*ends)).as_py() else "low is not below high"


def _wrong_boxes(table: pa.Table, sides: Mapping[str, str]) -> str | None:
    """Return the first fault of boxes; ``sides``: the column of an image's side by the axis. Conversions let a box
    reach out by a pixel of the source, of which resampling makes several."""
    boxes = table["boxes"].combine_chunks()
    row, every = pc.list_parent_indices(boxes).to_numpy(), boxes.flatten()
    for axis, extent in zip("zyx", "dhw", strict=True):
        first, size = (pc.struct_field(every, name).to_numpy(zero_copy_only=False) for name in (axis, extent))
        side = table[sides[axis]].to_numpy()[row] if axis in sides else np.ones(len(row))
        out = np.maximum(2, side / 4)
        if not ((first >= -out) & (size >= 0) & (first + size <= side + out)).all():  # nor NaN
            return "a box that is not inside its image"
    return None


def _wrong_claim(table: pa.Table, dims: int, channels: int) -> str | None:
    """Return the first value that no sample has, and for which memory would be taken, or files written elsewhere."""
    if not pc.all(pc.match_substring_regex(table["key"], KEY)).as_py():
        return "a key that is not of letters, digits, '_', '-' and '.', or does not begin with one of the first three"
    if fault := _wrong_range(table, channels):
        return fault
    sides = ["height", "width"] if dims == 2 else ["depth", "height", "width"]
    for name, most in {**dict.fromkeys(sides, MAX_PIXELS), "channels": MAX_CHANNELS}.items():
        least, largest = pc.min_max(table[name]).as_py().values()
        if least < 1 or largest > most:
            return f"{name} is {least if least < 1 else largest}, not from 1 to {most}"
    if unknown := {*pc.unique(table["bits"]).to_pylist()} - {8, 16}:
        return f"bits is {unknown.pop()}, not 8 or 16"
    count = reduce(pc.multiply, (table[name].cast(pa.float64()) for name in sides))
    most = MAX_PIXELS if dims == 2 else MAX_VOXELS
    if (largest := pc.max(count).as_py()) > most:
        return f"an image of {largest:.3g} {'pixels' if dims == 2 else 'voxels'}, more than {most}"
    for name, length in (("spacing", dims), ("affine", 16)):  # where a row has them
        lengths, values = pc.list_value_length(table[name]), pc.list_flatten(table[name]).to_numpy()
        if pc.any(pc.not_equal(lengths, length)).as_py():
            return f"{name} is not of {length} numbers"
        if not np.isfinite(values).all():
            return f"{name} is not finite"
        if name == "spacing" and not ((values > 0) & (values <= MAX_SPACING)).all():
            return f"spacing is not above 0 and at most {MAX_SPACING:g} mm"
    if fault := _wrong_boxes(table, dict(zip("xyz", reversed(sides), strict=False))):
        return fault
    if pc.any(pc.is_inf(pc.list_flatten(table["labels"])), min_count=0).as_py():
        return "a label is infinite"
    return None


def wrong_rows(
    table: pa.Table, dims: int, counts: Mapping[str, int], shards: Mapping[str, int], channels: int = 0
) -> str | None:
    """Return the first fault of a manifest's rows, None if there is none. ``shards``: their sizes in bytes;
    ``channels``: that ``low`` and ``high`` are lists of; 0: numbers.

    Raises ArrowInvalid where an offset and a size are too large to be added.
    """
    for name in (*NEVER_NULL, *(["depth"] if dims == 3 else [])):
        if table[name].null_count:
            return f"rows without {name}"
    if table["affine"].null_count != (table.num_rows if dims == 2 else 0):
        return f"samples of other dimensions than {dims}"
    if table.num_rows and (fault := _wrong_claim(table, dims, channels)):
        return fault
    if unknown := set(pc.unique(table["codec"]).to_pylist()) - set(CODECS):
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
