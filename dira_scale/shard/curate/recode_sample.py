"""One stored sample in another codec, bit depth or size: pixels, mask, boxes, spacing and levels stay consistent."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from dira_scale.archive.reading import QuarantinedError
from dira_scale.archive.sample import encoded, shrunk
from dira_scale.archive.slices import Refused
from dira_scale.data.tar import Sample
from dira_scale.imaging.boxes import Box
from dira_scale.imaging.grey import GreyImage, GreyWindow, store
from dira_scale.pixels.codecs import DecodeError, decode, encode
from dira_scale.storage.store import read_ranges

QUALITY = 95  # of JPEG, as when sharding


@dataclass(frozen=True)
class Form:
    """How samples are stored; None: as they are. The keys are explained in ``configs/shard_convert.yaml``."""

    codec: str | None = None
    max_side: int | None = None
    quality: int | None = None
    bits: int | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What is not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def codec_of(self, stored: str) -> str:
        return self.codec or stored

    def changes(self, row: dict[str, Any]) -> bool:
        """Whether the payload of this manifest row becomes another one; else its bytes are copied."""
        codec = self.codec_of(row["codec"])
        return (
            codec != row["codec"]
            or self.bits not in (None, row["bits"])
            or (self.max_side is not None and max(row["height"], row["width"]) > self.max_side)
            or (self.quality is not None and codec == "jpg")
        )


class StoredSample(NamedTuple):
    """A sample of a dataset: its manifest row, and the shard that the row points into."""

    file: Path
    row: dict[str, Any]


def recoded(stored: StoredSample, form: Form) -> Iterator[Sample | Refused]:
    """The sample in its new form, or why it has none: its bytes are damaged, or the codec cannot hold it.

    Raises OSError for a shard that cannot be read now.
    """
    try:
        yield _recoded(stored, form)
    except QuarantinedError as rejection:
        yield Refused(stored.row["key"], rejection.stage, rejection.reason)


def _recoded(stored: StoredSample, form: Form) -> Sample:
    row = stored.row | {"attributes": dict(stored.row["attributes"] or ())}
    payload, mask = _read(stored)
    if xxhash.xxh3_64_hexdigest(payload) != row["xxh3"]:
        raise QuarantinedError("decode", "damaged in its shard: the image's checksum differs")
    shape = row["height"], row["width"]
    colours = () if row["channels"] == 1 else (row["channels"],)
    values = None if mask is None else _decoded(mask, "png", shape, "mask")
    if not form.changes(row):
        return Sample(row, payload, mask)
    pixels = _decoded(payload, row["codec"], (*shape, *colours), "decode")
    image = GreyImage(pixels, row["low"], row["high"], row["spacing"] and tuple(row["spacing"]))
    if form.bits not in (None, row["bits"]):
        image = store(pixels, GreyWindow(image.low, image.high, 1), form.bits, image.spacing)
    image, values, boxes = shrunk(image, values, tuple(Box(**box) for box in row["boxes"] or ()), form.max_side)
    codec = form.codec_of(row["codec"])
    payload = encoded(image.pixels, codec, form.quality or QUALITY)
    row |= {
        "codec": codec,
        "height": image.pixels.shape[0],
        "width": image.pixels.shape[1],
        "bits": 8 * image.pixels.itemsize,
        "low": image.low,
        "high": image.high,
        "spacing": image.spacing,
        "boxes": [box._asdict() for box in boxes],
        "xxh3": xxhash.xxh3_64_hexdigest(payload),
    }
    return Sample(row, payload, None if values is None else encode(np.ascontiguousarray(values), "png"))


def _read(stored: StoredSample) -> tuple[bytes, bytes | None]:
    """The encoded image and mask."""
    ranges = [
        (stored.row[offset], stored.row[size]) for offset, size in (("offset", "size"), ("mask_offset", "mask_size"))
    ]
    image, *mask = read_ranges(stored.file, [(start, start + size) for start, size in ranges if size is not None])
    return image, mask[0] if mask else None


def _decoded(payload: bytes, codec: str, shape: tuple[int, ...], stage: str) -> np.ndarray:
    try:
        values = decode(payload, codec)
    except DecodeError as error:
        raise QuarantinedError(stage, f"damaged in its shard: {codec} cannot be decoded") from error
    if values.shape != shape:
        raise QuarantinedError(stage, f"damaged in its shard: {values.shape} instead of {shape} pixels")
    return values
