"""One input to its samples: one, or the axial slices of a volume with ``recipe.slices``."""

from collections.abc import Iterator
from typing import NamedTuple

from dira_scale.archive.plan import Item, slice_key
from dira_scale.archive.reading import QuarantinedError, read_input
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sample import FILLED, make_picture, prepared, sample_of
from dira_scale.data.manifest.schema import POSITION, SLICE
from dira_scale.data.tar import Sample
from dira_scale.imaging.grey import GreyImage
from dira_scale.imaging.rejection import RejectedError
from dira_scale.imaging.volume import Volume
from dira_scale.imaging.volumes.slices import Slice, axial_slices, with_square_pixels
from dira_scale.imaging.volumes.values import may_be_hounsfield

EMPTY = "a slice without tissue"
NO_HOUNSFIELD = (
    "values that are hardly Hounsfield units (none below 0, or all within 100), as recipe.modality=CT reads them"
)


class Noted(NamedTuple):
    """What is odd about an input that is taken all the same."""

    what: str


class Refused(NamedTuple):
    """A row of the quarantine: an input, or one slice of it."""

    source: str
    stage: str
    reason: str


def make_samples(item: Item, recipe: Recipe) -> Iterator[Sample | Refused | Noted]:
    """The input's samples, one after another. Raises OSError for a listed file that cannot be reached now."""
    try:
        image = read_input(item, recipe)
        if isinstance(image, Volume) and recipe.modality == "CT" and not may_be_hounsfield(image):
            yield Noted(NO_HOUNSFIELD)
        if recipe.slices is None:
            yield sample_of(item, image, recipe)
        else:
            yield from _slices(item, image, recipe)
    except QuarantinedError as rejection:
        yield Refused(item.key, rejection.stage, rejection.reason)


def _slices(item: Item, source: GreyImage | Volume, recipe: Recipe) -> Iterator[Sample | Refused]:
    """Raises QuarantinedError before the first slice, never after it."""
    assert recipe.slices is not None
    assert isinstance(source, Volume)
    if source.voxels.ndim == 4:
        raise QuarantinedError("check", "a volume of several channels: slices have one")
    try:
        volume, mask, boxes = with_square_pixels(*prepared(item, source, recipe))
    except RejectedError as error:
        raise QuarantinedError("geometry", str(error)) from error
    for cut in axial_slices(volume, mask, boxes, recipe.slices.every, recipe.bits, recipe.reading.modality):
        key = slice_key(item.key, cut.z)
        try:
            yield Refused(key, "check", EMPTY) if cut.empty else _sample(item, key, cut, source.filled, recipe)
        except QuarantinedError as rejection:
            yield Refused(key, rejection.stage, rejection.reason)


def _sample(item: Item, key: str, cut: Slice, filled: int, recipe: Recipe) -> Sample:
    sample = make_picture(item, cut.image, cut.mask, cut.boxes, recipe)
    facts = {SLICE: str(cut.z), POSITION: f"{cut.position:.1f}"} | ({FILLED: str(filled)} if filled else {})
    attributes = sample.row["attributes"] | facts
    return sample._replace(row=sample.row | {"key": key, "attributes": attributes})
