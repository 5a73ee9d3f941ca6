"""One image on its way: decode, shrink, encode, and into the tar."""

import io
import json
import math
import tarfile
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import xxhash

from dira_scale.data.codecs import encode
from dira_scale.ingest.deidentify import coarse
from dira_scale.ingest.grey import Image, resize, shrink
from dira_scale.ingest.imaging import read_image, read_mask
from dira_scale.ingest.plan import Item
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.verdict import OUT_OF_REACH, BadImage

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Rejected(Exception):  # noqa: N818
    """An input that cannot become a sample: at which stage, and why."""

    stage: str
    reason: str


@dataclass(frozen=True)
class Sample:
    """A finished sample: its manifest row, but for where it lies, and its files."""

    row: dict[str, Any]
    payload: bytes
    mask: bytes | None


def make_sample(item: Item, recipe: Recipe) -> Sample:
    """Raises Rejected; OSError for a file that was found when it was listed and cannot be reached now."""
    record = item.record
    if record.rejected:
        raise Rejected("list", record.rejected)
    try:
        source = read_image(record.image, recipe.bits, recipe.burned_in == "keep")
    except BadImage as error:
        cause = error.__cause__
        if record.size is not None and isinstance(cause, OSError) and cause.errno in OUT_OF_REACH:
            raise OSError(cause.errno, cause.strerror, str(record.image)) from error
        raise Rejected("decode", str(error)) from error
    if min(source.pixels.shape) < recipe.min_side:
        raise Rejected("check", f"shorter side is below {recipe.min_side} pixels")
    if any(b.y + b.h > source.pixels.shape[0] + 1 or b.x + b.w > source.pixels.shape[1] + 1 for b in record.boxes):
        raise Rejected("check", "a box reaches out of the image by more than a pixel")
    image = shrink(source, recipe.max_side)
    payload = _encode(image, recipe)
    height, width = image.pixels.shape
    scale_y, scale_x = height / source.pixels.shape[0], width / source.pixels.shape[1]
    row = {
        "key": item.key,
        "split": item.split,
        "patient": item.patient,
        "study": item.study,
        "codec": recipe.codec,
        "channels": 1,
        "height": height,
        "width": width,
        "depth": 1,
        "bits": recipe.bits,
        "low": image.low,
        "high": image.high,
        "spacing": image.spacing,
        "affine": None,
        "labels": record.labels,
        "boxes": [
            {"label": b.label, "y": b.y * scale_y, "x": b.x * scale_x, "h": b.h * scale_y, "w": b.w * scale_x}
            for b in record.boxes
        ],
        "attributes": coarse(record.attributes),
        "xxh3": xxhash.xxh3_64_hexdigest(payload),
    }
    return Sample(row, payload, _mask(item, source.pixels.shape, recipe.max_side) if record.mask else None)


def _encode(image: Image, recipe: Recipe) -> bytes:
    try:
        return encode(image.pixels, recipe.codec, recipe.quality)
    except MemoryError:
        raise
    except Exception as error:  # the codecs' libraries have limits and errors of their own, as of JPEG's 65,500 pixels
        raise Rejected("encode", f"{recipe.codec} cannot hold it ({type(error).__name__})") from error


def _mask(item: Item, shape: tuple[int, int], max_side: int | None) -> bytes:
    assert item.record.mask is not None
    try:
        mask = read_mask(item.record.mask)
    except BadImage as error:
        raise Rejected("mask", str(error)) from error
    if mask.shape != shape:
        raise Rejected("mask", f"mask of {mask.shape} pixels for an image of {shape}")
    if max_side is not None and max(shape) > max_side:
        mask = resize(mask, max_side / max(shape), PIL.Image.Resampling.NEAREST)
    return encode(np.ascontiguousarray(mask), "png")


def add_to_tar(tar: tarfile.TarFile, sample: Sample, label_names: tuple[str, ...]) -> dict[str, Any]:
    """Append the sample's files; the manifest row, complete but for the shard's name."""
    row, key = sample.row, sample.row["key"]
    offset = _add(tar, f"{key}.{row['codec']}", sample.payload)
    _add(tar, f"{key}.json", _sidecar(row, label_names))
    place: dict[str, Any] = {"offset": offset, "size": len(sample.payload), "mask_offset": None, "mask_size": None}
    if sample.mask is not None:
        place |= {"mask_offset": _add(tar, f"{key}.mask.png", sample.mask), "mask_size": len(sample.mask)}
    return row | place


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
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
    kept = {name: row[name] for name in ("key", "patient", "study", "low", "high", "spacing", "boxes", "attributes")}
    return json.dumps(kept | {"labels": labels}, sort_keys=True, allow_nan=False).encode()
