"""One input as it is read: its image or volume, its mask, and why it cannot be used."""

import errno
from dataclasses import dataclass

import numpy as np

from dira_scale.archive.plan import Item
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.base import Input, PaintedMask, SourceRecord
from dira_scale.imaging.boxes import Box
from dira_scale.imaging.burned_in import LetteringError
from dira_scale.imaging.colour import RGB, ColourError, refuse_grey
from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.read import read_image, read_mask
from dira_scale.imaging.rejection import OUT_OF_REACH, GeometryError, RejectedError
from dira_scale.imaging.volume import Volume
from dira_scale.imaging.volumes import read_volume, read_volume_mask
from dira_scale.storage.store import is_local

COLOUR = "colour"  # the stage of images in colour where grey ones are stored, and the reverse
LETTERING = "lettering"  # the stage of images that seem to show text


@dataclass(eq=False)  # not frozen: a context manager that it passes through sets its traceback
class QuarantinedError(Exception):
    """An input that cannot become a sample, with stage and reason."""

    stage: str
    reason: str


def read_input(item: Item, recipe: Recipe) -> GreyImage | Volume:
    """Raises QuarantinedError; OSError for a listed file that cannot be reached now."""
    if item.record.rejected:
        raise QuarantinedError("list", item.record.rejected)
    image = item.record.image
    _check_as_listed(item.record)
    try:
        if isinstance(image, Input):
            read = image.read(recipe.reading)
            if recipe.colour == RGB and isinstance(read, GreyImage):
                refuse_grey(read.pixels)
            return read
        if recipe.dims == 3:
            return read_volume(image, recipe.reading)
        return read_image(image, recipe.bits, recipe.burned_in, colour=recipe.colour)
    except GeometryError as error:
        raise QuarantinedError("geometry", str(error)) from error
    except ColourError as error:
        raise QuarantinedError(COLOUR, str(error)) from error
    except LetteringError as error:
        raise QuarantinedError(LETTERING, str(error)) from error
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


def mask_of(item: Item, source: GreyImage | Volume) -> np.ndarray | None:
    """The input's mask, uint8 of the source's shape; None if it has none. Raises QuarantinedError."""
    mask = item.record.mask
    if mask is None:
        return None
    shape = source.pixels.shape[:2] if isinstance(source, GreyImage) else source.shape
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


def check_shape(shape: tuple[int, ...], boxes: tuple[Box, ...], recipe: Recipe) -> None:
    """Raises QuarantinedError for an image or volume that is too small, and for a box outside of it."""
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
