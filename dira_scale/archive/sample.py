"""An image or a volume to a sample: crop or shrink, encode, manifest row."""

from typing import Any

import numpy as np
import PIL.Image
import xxhash

from dira_scale.archive.deidentify import coarse
from dira_scale.archive.foreground import foreground_of
from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.grey import GreyImage, resize, shrink
from dira_scale.archive.imaging.volume import Annotated, Volume
from dira_scale.archive.imaging.volumes import prepare
from dira_scale.archive.plan import Item
from dira_scale.archive.reading import check_shape, mask_of, quarantines
from dira_scale.archive.recipe import Recipe
from dira_scale.dataset.manifest.tar import Sample
from dira_scale.dataset.pixels.codecs import encode

FILLED = "filled_slices"  # attribute of a volume: how many of its slices the source lacks


@quarantines("check")
def sample_of(item: Item, image: GreyImage | Volume, recipe: Recipe) -> Sample:
    """Return the sample of an input that was read. Raises QuarantinedError."""
    if isinstance(image, GreyImage):
        check_shape(image.pixels.shape[:2], item.record.boxes, recipe)
        return make_picture(item, image, mask_of(item, image), item.record.boxes, recipe)
    volume, mask, boxes = prepared(item, image, recipe)
    payload = _encoded(volume.voxels, recipe.codec, recipe.quality)
    depth, height, width = volume.shape
    channels = volume.voxels.shape[0] if volume.voxels.ndim == 4 else 1
    shape = {"channels": channels, "depth": depth, "height": height, "width": width, "bits": 16}
    row = _row(item, volume, boxes, payload, recipe) | shape | {"affine": [float(v) for v in volume.affine.flat]}
    if image.filled:
        row["attributes"] |= {FILLED: str(image.filled)}
    row["foreground"] = [] if mask is None else foreground_of(mask, item.key)
    return Sample(row, payload, None if mask is None else encode(np.ascontiguousarray(mask), "b2nd"))


def make_picture(
    item: Item, source: GreyImage, mask: np.ndarray | None, boxes: tuple[Box, ...], recipe: Recipe
) -> Sample:
    """2D: shrink to ``max_side``, with mask (nearest neighbour) and boxes. Raises QuarantinedError."""
    image = shrink(source, recipe.max_side)
    height, width, channels = (*image.pixels.shape, 1)[:3]
    scale_y, scale_x = height / source.pixels.shape[0], width / source.pixels.shape[1]
    boxes = tuple(b._replace(y=b.y * scale_y, x=b.x * scale_x, h=b.h * scale_y, w=b.w * scale_x) for b in boxes)
    if mask is not None and recipe.max_side is not None and max(mask.shape) > recipe.max_side:
        mask = resize(mask, recipe.max_side / max(mask.shape), PIL.Image.Resampling.NEAREST)
    payload = _encoded(image.pixels, recipe.codec, recipe.quality)
    shape = {"channels": channels, "depth": 1, "height": height, "width": width, "bits": recipe.bits, "affine": None}
    row = _row(item, image, boxes, payload, recipe) | shape
    return Sample(row, payload, None if mask is None else encode(np.ascontiguousarray(mask), "png"))


def prepared(item: Item, source: Volume, recipe: Recipe) -> Annotated:
    """3D: crop, clip and resample per ``recipe.volume``, with mask and boxes. Raises QuarantinedError."""
    check_shape(source.shape, item.record.boxes, recipe)
    with quarantines("geometry"):
        annotated = prepare(source, mask_of(item, source), item.record.boxes, recipe.volume)
    check_shape(annotated.volume.shape, (), recipe)
    return annotated


def _row(
    item: Item, image: GreyImage | Volume, boxes: tuple[Box, ...], payload: bytes, recipe: Recipe
) -> dict[str, Any]:  # fmt: skip
    low, high = (image.ranges if isinstance(image, Volume) else None) or (image.low, image.high)
    return {
        "key": item.key,
        "split": item.split,
        "patient": item.patient,
        "study": item.study,
        "codec": recipe.codec,
        "low": low,
        "high": high,
        "spacing": image.spacing,
        "labels": item.record.labels,
        "boxes": [box._asdict() for box in boxes],
        "attributes": coarse(item.record.attributes),
        "xxh3": xxhash.xxh3_64_hexdigest(payload),
    }


def _encoded(pixels: np.ndarray, codec: str, quality: int) -> bytes:
    """Payload bytes. Raises QuarantinedError for pixels that the codec cannot hold: each has its own limits and errors,
    such as JPEG's 65,500 pixels."""
    with quarantines("encode", f"{codec} cannot hold it ({{}})"):
        return encode(pixels, codec, quality)
