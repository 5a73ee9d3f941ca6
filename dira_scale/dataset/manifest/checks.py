"""Checks of datasets from untrusted sources: printable texts, columns of a manifest, records of an index."""

import re
from collections.abc import Container, Mapping, Sequence
from typing import Any, Protocol

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
SIDES = "depth", "height", "width"
BITS = 8, 16
NEVER_NULL = (
    "key", "split", "patient", "shard", "offset", "size", "codec", "channels", "height", "width", "bits", "low", "high",
    "labels", "xxh3",
)  # fmt: skip


class Described(Protocol):
    """What a manifest's rows are checked by: some of :class:`~dira_scale.dataset.manifest.info.DatasetInfo`."""

    @property
    def dims(self) -> int: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def shards(self) -> Mapping[str, int]: ...
    @property
    def label_names(self) -> Sequence[str]: ...
    @property
    def channels(self) -> Sequence[str]: ...


def is_shown(text: str) -> bool:
    """Return whether ``text`` is safe to print: unprintable text may hold terminal control sequences."""
    return len(text) <= LONGEST_TEXT and text.isprintable()


def wrong_columns(table: pa.Table, info: Described) -> str | None:
    """Return the first fault of a manifest's rows that :func:`wrong_records` cannot see, None if there is none.

    ``table`` may lack columns; boxes are checked where it has the sides of their images.
    """
    columns = set(table.column_names)
    for name in (*NEVER_NULL, *(["depth"] if info.dims == 3 else [])):
        if name in columns and table[name].null_count:
            return f"rows without {name}"
    if "affine" in columns and table["affine"].null_count != (table.num_rows if info.dims == 2 else 0):
        return f"samples of other dimensions than {info.dims}"
    if "key" in columns and not pc.all(pc.match_substring_regex(table["key"], KEY)).as_py() and table.num_rows:
        return "a key that is not of letters, digits, '_', '-' and '.', or does not begin with one of the first three"
    for name, length in (("spacing", info.dims), ("affine", 16)):  # where a row has them
        if name not in columns:
            continue
        lengths, values = pc.list_value_length(table[name]), pc.list_flatten(table[name]).to_numpy()
        if pc.any(pc.not_equal(lengths, length)).as_py():
            return f"{name} is not of {length} numbers"
        if not np.isfinite(values).all():
            return f"{name} is not finite"
        if name == "spacing" and not ((values > 0) & (values <= MAX_SPACING)).all():
            return f"spacing is not above 0 and at most {MAX_SPACING:g} mm"
    for name, width in (("labels", len(info.label_names)), ("low", len(info.channels)), ("high", len(info.channels))):
        is_list = name in columns and pa.types.is_list(table[name].type)
        if is_list and not pc.all(pc.equal(pc.list_value_length(table[name]), width)).as_py() and table.num_rows:
            return f"{name} is not of {width} channels" if name != "labels" else f"rows do not have {width} labels each"
    known: dict[str, Container[str]] = {"codec": CODECS, "split": info.counts, "shard": info.shards}
    for name, words in known.items():
        unknown = [word for word in pc.unique(table[name]).to_pylist() if word not in words] if name in columns else []
        if unknown:
            other = repr(unknown[0][:60])
            return f"unknown codec {other}" if name == "codec" else f"{name} {other} is not in {INFO_FILE}"
    return _wrong_boxes(table, info.dims) if {"boxes", *SIDES} <= columns else None


def _wrong_boxes(table: pa.Table, dims: int) -> str | None:
    """Return the first fault of boxes. Conversions let a box reach out by a pixel of the source, of which resampling
    makes several."""
    boxes = table["boxes"].combine_chunks()
    row, every = pc.list_parent_indices(boxes).to_numpy(), boxes.flatten()
    for axis, extent, name in zip("zyx", "dhw", SIDES, strict=True):
        first, size = (pc.struct_field(every, side).to_numpy(zero_copy_only=False) for side in (axis, extent))
        side = np.ones(len(row)) if dims == 2 and axis == "z" else table[name].to_numpy()[row]
        out = np.maximum(2, side / 4)
        if not ((first >= -out) & (size >= 0) & (first + size <= side + out)).all():  # nor NaN
            return "a box that is not inside its image"
    return None


def wrong_records(records: np.ndarray, info: Described, codecs: int) -> str | None:
    """Return the first fault of an index's records, for which memory would be taken, or bytes read elsewhere; None if
    there is none. ``codecs``: how many they number."""
    if not len(records):
        return None
    sides = SIDES[3 - info.dims :]
    ranges = {"shard": (0, len(info.shards) - 1), "codec": (0, codecs - 1), "channels": (1, MAX_CHANNELS)}
    if info.channels and (records["channels"] != len(info.channels)).any():
        return f"channels is not {len(info.channels)}"
    for name, (first, last) in {**dict.fromkeys(sides, (1, MAX_PIXELS)), **ranges}.items():
        least, most = int(records[name].min()), int(records[name].max())
        if least < first or most > last:
            return f"{name} is {least if least < first else most}, not from {first} to {last}"
    if unknown := {*np.unique(records["bits"]).tolist()} - {*BITS}:
        return f"bits is {unknown.pop()}, not 8 or 16"
    count = np.prod([records[name].astype(float) for name in sides], 0)
    limit = MAX_PIXELS if info.dims == 2 else MAX_VOXELS
    if (largest := count.max()) > limit:
        return f"an image of {largest:.3g} {'pixels' if info.dims == 2 else 'voxels'}, more than {limit}"
    low, high = (records[name].reshape(len(records), -1) for name in ("low", "high"))
    lacking, both = (np.isnan(end) if info.channels else np.zeros(low.shape, bool) for end in (low, high))
    if info.channels and ((lacking != both).any() or lacking.all(1).any()):
        return "low and high are not of the same channels, or of none"
    for name, values in (("low", low), ("high", high)):
        if not (np.isfinite(values) | lacking).all():
            return f"{name} is not finite"
    if not ((low < high) | lacking).all():
        return "low is not below high"
    if np.isinf(records["labels"]).any():
        return "a label is infinite"
    sizes = np.array([*info.shards.values()], np.int64)[records["shard"]]
    none = (records["mask_offset"] == -1) & (records["mask_size"] == -1)
    for kind, absent in (("", np.zeros(len(records), bool)), ("mask_", none)):
        offset, size = records[f"{kind}offset"], records[f"{kind}size"]
        outside = ((offset < 0) | (size < 0) | (size > sizes) | (offset > sizes - size)) & ~absent
        if outside.any():
            return f"samples outside shard {[*info.shards][records['shard'][outside.argmax()]]}"
    return None


def checked_kinds(kinds: Any, counts: Mapping[str, int]) -> dict[str, list[Any]]:
    """Return an index's ``kinds``. Raises ValueError or TypeError for others than it may have."""
    if kinds.keys() != counts.keys():
        raise ValueError("its kinds are of other splits")
    for codec, channels, bits in (entry for entries in kinds.values() for entry in entries):
        if codec not in CODECS or type(channels) is not int or not 1 <= channels <= MAX_CHANNELS or bits not in BITS:
            raise ValueError("its kinds are damaged")
    return dict(kinds)
