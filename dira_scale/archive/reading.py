"""One input as it is read: its image or volume, its mask, and why it cannot be used."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.imaging.colour import coloured
from dira_scale.archive.imaging.files import DAMAGED
from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.read import read_image, read_mask
from dira_scale.archive.imaging.rejection import OUT_OF_REACH, RejectedError, rejects
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes import read_volume, read_volume_mask
from dira_scale.archive.plan import Item
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.base import PaintedMask, SourceImage
from dira_scale.base.storage.store import is_local

# What accepts an input, by the word of its rejection.
ACCEPTED = {
    "header": "recipe.burned_in=keep accepts it",
    "lettering": "recipe.burned_in=tagged or keep accepts it",
    "colour": "recipe.colour=rgb stores three channels, luminance makes it grey",
    "grey": "recipe.colour=any stores them in three channels, grey in one",
    "pages": "recipe.dims=3 reads them as a volume",
    "frames": "recipe=volumes reads such files whole",
    "irregular": "recipe.volume.irregular=resample accepts them",
    "modality": "recipe.modality",
    "crop": "recipe.volume.crop",
    "structures": "recipe.structures",
    "unnamed": "name it in recipe.structures",
    "overlap": "recipe.structures says which lies over which",
}


def reason_of(error: RejectedError) -> str:
    """Return why an input was rejected, with the key that decides it."""
    return f"{error} ({ACCEPTED[error.decided_by]})" if error.decided_by else str(error)


class QuarantinedError(RejectedError):
    """An input that cannot become a sample, with stage and reason."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(stage, reason)
        self.stage, self.reason = stage, reason


@contextmanager
def quarantines(stage: str, reason: str = DAMAGED) -> Iterator[None]:
    """Turn RejectedError, and any other error of the input (``rejects``), into QuarantinedError."""
    try:
        with rejects(reason):
            yield
    except QuarantinedError:
        raise
    except RejectedError as error:
        raise QuarantinedError(stage, reason_of(error)) from error


def read_input(item: Item, recipe: Recipe) -> GreyImage | Volume:
    """Raises QuarantinedError; OSError for a listed file that cannot be reached now, or has changed since."""
    if item.record.rejected:
        raise QuarantinedError("list", item.record.rejected)
    image, size = item.record.image, item.record.size
    paths = image.paths if isinstance(image, SourceImage) else (image,)
    header_alone = paths[0].suffix.lower() in (".mhd", ".nhdr", ".hdr")  # the size may include its data file
    # truncated or replaced since it was listed? (Stores replace objects atomically.)
    comparable = size is not None and not header_alone and all(map(is_local, paths))
    if comparable and sum(path.stat().st_size for path in paths) != size:
        raise OSError(errno.ESTALE, "its size has changed since it was listed", str(paths[0]))
    try:
        with rejects(DAMAGED):
            if isinstance(image, SourceImage):
                read = image.read(recipe.reading)
                if isinstance(read, GreyImage):
                    read = replace(read, pixels=coloured(recipe.colour, read.pixels))
                return read
            if recipe.dims == 3:
                return read_volume(image, recipe.reading)
            return read_image(image, recipe.bits, recipe.burned_in, colour=recipe.colour)
    except RejectedError as error:
        cause = error.__cause__
        if size is not None and isinstance(cause, OSError) and cause.errno in OUT_OF_REACH:
            raise OSError(cause.errno, cause.strerror, cause.filename or str(image)) from error
        raise QuarantinedError(error.stage, reason_of(error)) from error


def mask_of(item: Item, source: GreyImage | Volume) -> np.ndarray | None:
    """The input's mask, uint8 of the source's shape; None if it has none. Raises QuarantinedError."""
    mask = item.record.mask
    if mask is None:
        return None
    shape = source.pixels.shape[:2] if isinstance(source, GreyImage) else source.shape
    with quarantines("mask"):
        if isinstance(mask, PaintedMask):
            values = mask.paint(source)
        else:
            values = read_mask(mask) if isinstance(source, GreyImage) else read_volume_mask(mask, source)
    if values.shape != shape:
        raise QuarantinedError("mask", "the mask is of another size than its image")
    return values


def check_shape(shape: tuple[int, ...], boxes: tuple[Box, ...], recipe: Recipe) -> None:
    """Raises QuarantinedError for an image or volume that is too small, and for a box outside of it."""
    depth, height, width = (1, *shape)[-3:]
    if min(height, width) < recipe.min_side:
        raise QuarantinedError("check", f"shorter side is below {recipe.min_side} pixels (recipe.min_side)")
    if len(shape) > 2 and depth < recipe.min_side and recipe.slices is None:
        raise QuarantinedError("check", f"fewer than {recipe.min_side} slices (recipe.min_side)")
    if not all(min(b.d, b.h, b.w) > 0 for b in boxes):
        raise QuarantinedError("check", "a box without extent, or outside the image")
    if not all(
        first >= -1 and first + extent <= side + 1
        for b in boxes
        for first, extent, side in ((b.z, b.d, depth), (b.y, b.h, height), (b.x, b.w, width))
    ):
        raise QuarantinedError("check", "a box reaches out of the image by more than a pixel")
