"""A sample's files in a shard: a tar that plain ``tar`` and ``webdataset`` read, at offsets that the manifest keeps."""

import io
import json
import math
import tarfile
from typing import Any

from dira_scale.ingest.sample import Sample

BLOCK = tarfile.BLOCKSIZE


def add_to_tar(tar: tarfile.TarFile, sample: Sample, label_names: tuple[str, ...]) -> dict[str, Any]:
    """Append the sample's files; the manifest row, complete but for the shard's name."""
    row, key = sample.row, sample.row["key"]
    offset = add_file(tar, f"{key}.{row['codec']}", sample.payload)
    add_file(tar, f"{key}.json", _sidecar(row, label_names))
    place: dict[str, Any] = {"offset": offset, "size": len(sample.payload), "mask_offset": None, "mask_size": None}
    if sample.mask is not None:
        kind = "png" if row["affine"] is None else "b2nd"
        place |= {"mask_offset": add_file(tar, f"{key}.mask.{kind}", sample.mask), "mask_size": len(sample.mask)}
    return row | place


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a file with a header that depends on nothing else; the offset of its first byte."""
    header = tarfile.TarInfo(name)
    header.size, header.mode = len(content), 0o644
    start = tar.offset
    tar.addfile(header, io.BytesIO(content))
    assert tar.offset == start + BLOCK + -(-len(content) // BLOCK) * BLOCK, "a header of more than one block"
    return start + BLOCK


def _sidecar(row: dict[str, Any], label_names: tuple[str, ...]) -> bytes:
    """KEY.json: what a reader without the manifest needs. Unknown labels are null, JSON has no NaN."""
    labels = {n: None if math.isnan(v) else v for n, v in zip(label_names, row["labels"], strict=True)}
    names = ("key", "patient", "study", "low", "high", "spacing", "affine", "boxes", "attributes")
    kept = {name: row[name] for name in names if row[name] is not None or name != "affine"}
    return json.dumps(kept | {"labels": labels}, sort_keys=True, allow_nan=False).encode()
