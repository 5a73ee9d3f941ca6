"""A sample's files in a shard: a tar that ``tar`` and ``webdataset`` can read, with offsets kept in the manifest."""

import io
import json
import math
import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import xxhash

BLOCK = tarfile.BLOCKSIZE


def checksum(file: BinaryIO) -> str:
    """64-bit xxHash3 of the whole ``file``, hex."""
    digest = xxhash.xxh3_64()
    file.seek(0)
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


class Sample(NamedTuple):
    """A sample to be written: its manifest row without its place in a shard, and its files."""

    row: dict[str, Any]
    payload: bytes
    mask: bytes | None


def add_to_tar(tar: tarfile.TarFile, sample: Sample, label_names: tuple[str, ...]) -> dict[str, Any]:
    """Append the sample's files; returns its manifest row, complete except for the shard's name."""
    row, key = sample.row, sample.row["key"]
    offset = add_file(tar, f"{key}.{row['codec']}", sample.payload)
    # For readers without the manifest. Unknown labels, and ranges of lacking channels, are null, as JSON has no NaN.
    labels = {n: None if math.isnan(v) else v for n, v in zip(label_names, row["labels"], strict=True)}
    names = ("key", "patient", "study", "low", "high", "spacing", "affine", "boxes", "attributes")
    sidecar = {name: row[name] for name in names if row[name] is not None or name != "affine"} | {"labels": labels}
    several = {name: row[name] for name in ("low", "high") if isinstance(row[name], tuple | list)}
    sidecar |= {name: [None if math.isnan(v) else v for v in values] for name, values in several.items()}
    add_file(tar, f"{key}.json", json.dumps(sidecar, sort_keys=True, allow_nan=False).encode())
    location: dict[str, Any] = {"offset": offset, "size": len(sample.payload), "mask_offset": None, "mask_size": None}
    if sample.mask is not None:
        kind = "png" if row["affine"] is None else "b2nd"
        location |= {"mask_offset": add_file(tar, f"{key}.mask.{kind}", sample.mask), "mask_size": len(sample.mask)}
    return row | location


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a file, with a header determined by name and size alone; returns the offset of its first byte."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(content), 0o644
    start = tar.offset
    tar.addfile(header, io.BytesIO(content))
    assert tar.offset == start + BLOCK + -(-len(content) // BLOCK) * BLOCK, "a header of more than one block"
    return start + BLOCK


def members(stream: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yield the raw headers of a tar, in order.

    Safe for untrusted files: unlike ``tarfile``, it yields extension headers as members instead of applying their names
    and sizes, and does not loop on negative sizes.
    Raises tarfile.TarError where a header is missing, or a member does not end within the file.
    """
    offset, end = 0, stream.seek(0, io.SEEK_END)
    while offset < end and (member := member_at(stream, offset, end)):
        offset = member.offset_data + -(-member.size // BLOCK) * BLOCK
        yield member


def member_at(stream: BinaryIO, offset: int, end: int) -> tarfile.TarInfo | None:
    """Return the header at byte ``offset`` of a tar of ``end`` bytes; None at the end mark. Raises as ``members``."""
    stream.seek(offset)
    block = stream.read(BLOCK)
    if block == bytes(BLOCK):
        return None
    member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    member.offset, member.offset_data = offset, offset + BLOCK
    if not 0 <= member.size <= end - member.offset_data:
        raise tarfile.ReadError("a member does not end within the file")
    return member
