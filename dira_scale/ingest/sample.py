"""One input to a sample: decode, shrink, encode, manifest row."""

import errno
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import xxhash

from dira_scale.data.tar import Sample
from dira_scale.imaging.boxes import Box
from dira_scale.imaging.grey import GreyImage, resize, shrink
from dira_scale.imaging.read import read_image, read_mask
from dira_scale.imaging.rejection import OUT_OF_REACH, GeometryError, RejectedError
from dira_scale.imaging.volume import Annotated, Volume
from dira_scale.imaging.volumes import prepare, read_volume, read_volume_mask
from dira_scale.ingest.deidentify import coarse
from dira_scale.ingest.plan import Item
from dira_scale.ingest.recipe import Recipe
from dira_scale.ingest.sources.base import Input, PaintedMask, SourceRecord
from dira_scale.pixels.codecs import encode
from dira_scale.places.store import is_local

FILLED = "filled_slices"  # attribute of a volume: how many of its slices the source lacks


@dataclass(frozen=True)
class QuarantinedError(Exception):
    """An input that cannot become a sample, with stage and reason."""

    stage: str
    reason: str


def make_sample(item: Item, recipe: Recipe) -> Sample:
    """Raises QuarantinedError; OSError for a listed file that cannot be reached now."""
    return sample_of(item, read_input(item, recipe), recipe)


def sample_of(item: Item, image: GreyImage | Volume, recipe: Recipe) -> Sample:
    """Of an input that was read. Raises QuarantinedError."""
    if isinstance(image, Volume):
        return _volume(item, image, recipe)
    _check(image.pixels.shape, item.record.boxes, recipe)
    return make_picture(item, image, _mask(item, image), item.record.boxes, recipe)


def read_input(item: Item, recipe: Recipe) -> GreyImage | Volume:
    """Raises as ``make_sample``."""
    if item.record.rejected:
        raise QuarantinedError("list", item.record.rejected)
    image = item.record.image
    _check_as_listed(item.record)
    try:
        if isinstance(image, Input):
            return image.read(recipe.reading)
        if recipe.dims == 3:
            return read_volume(image, recipe.reading)
        return read_image(image, recipe.bits, recipe.burned_in)
    except GeometryError as error:
        raise QuarantinedError("geometry", str(error)) from error
    except RejectedError as error:
        cause = error.__cause__
        if item.record.size is not None and isinstance(cause, OSError) and cause.errno in OUT_OF_REACH:
            raise OSError(cause.errno, cause.strerror, cause.filename or str(image)) from error
        raise QuarantinedError("decode", str(error)) from error


def _check_as_listed(record: SourceRecord) -> None:
    """Raises OSError if a file was truncated or replaced since it was listed. (Stores replace objects atomically.)"""
    image = record.image
    paths = image.paths if isinstance(image, Input) else (image,)
    if record.size is None or not all(map(is_local, paths)) or paths[0].suffix.lower() in (".mhd", ".nhdr", ".hdr"):
        return  # the size may include the separate data file of such a header
    if sum(path.stat().st_size for path in paths) != record.size:
        raise OSError(errno.ESTALE, "its size has changed since it was listed", str(paths[0]))


def make_picture(
    item: Item, source: GreyImage, mask: np.ndarray | None, source_boxes: tuple[Box, ...], recipe: Recipe
) -> Sample:
    """2D: shrink to ``max_side``, with mask and the boxes ``source_boxes``. Raises QuarantinedError."""
    image, mask, boxes = shrunk(source, mask, source_boxes, recipe.max_side)
    height, width = image.pixels.shape
    payload = encoded(image.pixels, recipe.codec, recipe.quality)
    shape = {"channels": 1, "depth": 1, "height": height, "width": width, "bits": recipe.bits, "affine": None}
    row = _row(item, image, boxes, payload, recipe) | shape
    return Sample(row, payload, None if mask is None else encode(np.ascontiguousarray(mask), "png"))


def shrunk(
    source: GreyImage, mask: np.ndarray | None, source_boxes: tuple[Box, ...], max_side: int | None
) -> tuple[GreyImage, np.ndarray | None, tuple[Box, ...]]:
    """The image with the longer side reduced to ``max_side``, its mask (nearest neighbour) and its boxes likewise."""
    image = shrink(source, max_side)
    scale_y, scale_x = (new / old for new, old in zip(image.pixels.shape, source.pixels.shape, strict=True))
    boxes = tuple(b._replace(y=b.y * scale_y, x=b.x * scale_x, h=b.h * scale_y, w=b.w * scale_x) for b in source_boxes)
    if mask is not None and max_side is not None and max(mask.shape) > max_side:
        mask = resize(mask, max_side / max(mask.shape), PIL.Image.Resampling.NEAREST)
    return image, mask, boxes


def prepared(item: Item, source: Volume, recipe: Recipe) -> Annotated:
    """3D: crop, clip and resample per ``recipe.volume``, with mask and boxes. Raises QuarantinedError."""
    _check(source.shape, item.record.boxes, recipe)
    try:
        made = prepare(source, _mask(item, source), item.record.boxes, recipe.volume)
    except RejectedError as error:
        raise QuarantinedError("geometry", str(error)) from error
    _check(made.volume.shape, (), recipe)
    return made


def _volume(item: Item, source: Volume, recipe: Recipe) -> Sample:
    volume, mask, boxes = prepared(item, source, recipe)
    payload = encoded(volume.voxels, recipe.codec, recipe.quality)
    depth, height, width = volume.shape
    channels = volume.voxels.shape[0] if volume.voxels.ndim == 4 else 1
    shape = {"channels": channels, "depth": depth, "height": height, "width": width, "bits": 16}
    row = _row(item, volume, boxes, payload, recipe) | shape | {"affine": [float(v) for v in volume.affine.flat]}
    if source.filled:
        row["attributes"] |= {FILLED: str(source.filled)}
    return Sample(row, payload, None if mask is None else encode(np.ascontiguousarray(mask), "b2nd"))


def _check(shape: tuple[int, ...], boxes: tuple[Box, ...], recipe: Recipe) -> None:
    depth, height, width = (1, *shape)[-3:]
    if min(height, width) < recipe.min_side:
        raise QuarantinedError("check", f"shorter side is below {recipe.min_side} pixels (recipe.min_side)")
    if len(shape) > 2 and depth < recipe.min_side and recipe.slices is None:
        raise QuarantinedError("check", f"fewer than {recipe.min_side} slices (recipe.min_side)")
    if any(min(b.d, b.h, b.w) <= 0 for b in boxes):
        raise QuarantinedError("check", "a box without extent, or outside the image")
    if any(min(b.z, b.y, b.x) < -1 for b in boxes) or any(
        b.z + b.d > depth + 1 or b.y + b.h > height + 1 or b.x + b.w > width + 1 for b in boxes
    ):
        raise QuarantinedError("check", "a box reaches out of the image by more than a pixel")


def _row(
    item: Item, image: GreyImage | Volume, boxes: tuple[Box, ...], payload: bytes, recipe: Recipe
) -> dict[str, Any]:  # fmt: skip
    return {
        "key": item.key,
        "split": item.split,
        "patient": item.patient,
        "study": item.study,
        "codec": recipe.codec,
        "low": image.low,
        "high": image.high,
        "spacing": image.spacing,
        "labels": item.record.labels,
        "boxes": [box._asdict() for box in boxes],
        "attributes": coarse(item.record.attributes),
        "xxh3": xxhash.xxh3_64_hexdigest(payload),
    }


def encoded(pixels: np.ndarray, codec: str, quality: int) -> bytes:
    """Payload bytes. Raises QuarantinedError for pixels that the codec cannot hold."""
    try:
        return encode(pixels, codec, quality)
    except MemoryError:
        raise
    except Exception as error:  # each codec has its own limits and errors, such as JPEG's 65,500 pixels
        raise QuarantinedError("encode", f"{codec} cannot hold it ({type(error).__name__})") from error


def _mask(item: Item, source: GreyImage | Volume) -> np.ndarray | None:
    """uint8 of the source's shape."""
    mask = item.record.mask
    if mask is None:
        return None
    shape = source.pixels.shape if isinstance(source, GreyImage) else source.shape
    try:
        if isinstance(mask, PaintedMask):
            values = mask.paint(source)
        else:
            values = read_mask(mask) if isinstance(source, GreyImage) else read_volume_mask(mask, source)
    except RejectedError as error:
        raise QuarantinedError("mask", str(error)) from error
    if values.shape != shape:
        raise QuarantinedError("mask", "the mask is of another size than its image")
    return values
