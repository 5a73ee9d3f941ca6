"""One input to its samples: one, or the axial slices of a volume with ``recipe.slices``,
as they are read: the front is up, the patient's right is on the left."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from dira_scale.archive.imaging.grey import GreyImage, GreyWindow, store
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.prepare import SKIN
from dira_scale.archive.imaging.volumes.read import is_volume
from dira_scale.archive.imaging.volumes.resample import resample
from dira_scale.archive.imaging.volumes.series import MODALITIES as VOLUMES
from dira_scale.archive.imaging.volumes.values import may_be_hounsfield
from dira_scale.archive.plan import Item, slice_key
from dira_scale.archive.reading import QuarantinedError, quarantines, read_input
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sample import FILLED, make_picture, prepared, sample_of
from dira_scale.base.errors import UserError
from dira_scale.base.storage.text import brief
from dira_scale.dataset.manifest.schema import POSITION, SLICE
from dira_scale.dataset.manifest.tar import Sample

UNKNOWN = "unknown"
# Those of DICOM (PS3.3 C.7.3.1.1.1) that are images. A header may hold any text, so other values are not published.
MODALITIES = {
    "BI", "CR", "CT", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "MG", "MR", "NM", "OCT", "OP", "OPT", "OT", "PT", "PX",
    "RF", "RG", "SC", "SM", "US", "XA", "XC",
}  # fmt: skip


def modality_of(modalities: Iterable[str | None]) -> str:
    """The modalities of all inputs, each once: ``DX``, ``CR, DX``, ``DX, unknown``."""
    names = {kind if kind in MODALITIES else UNKNOWN for kind in modalities}
    return ", ".join(sorted(names, key=lambda name: (name == UNKNOWN, name))) or UNKNOWN


def with_modality(recipe: Recipe, plan: Iterable[Item]) -> Recipe:
    """The recipe; if it is of volumes and names no modality, with the one that the DICOM headers of all say.

    It decides what the values mean, so it is never guessed from them. Raises UserError where a volume has no header
    that says it, or they say several. Files that are no volumes do not count: they are refused when they are read.
    """
    if recipe.modality or recipe.dims != 3:
        return recipe
    counts, first = Counter[str](), dict[str, str]()
    for record in (item.record for item in plan if item.record.rejected is None):
        if not record.modality and UNKNOWN not in counts and not is_volume(record.image):
            continue
        counts[record.modality or UNKNOWN] += 1
        first.setdefault(record.modality or UNKNOWN, record.name)
    if not counts:  # the conversion will say that nothing is usable
        return recipe.of_modality("CT")
    kinds = [kind for kind in VOLUMES if kind in counts] or sorted(MODALITIES & counts.keys())  # others: doses, masks
    if UNKNOWN in counts:
        others = f" and of {counts[UNKNOWN] - 1} more" if counts[UNKNOWN] > 1 else ""
        problem = f"no DICOM header says what the values of {brief(first[UNKNOWN])}{others} are"
    elif len(kinds) == 1:
        return recipe.of_modality(kinds[0])
    else:
        listed = ", ".join(f"{kind} ({counts[kind]} x)" for kind in kinds) or "none that is known"
        problem = f"the DICOM headers say {listed}"
    raise UserError(
        f"recipe.modality must be given: {problem}. recipe.modality=CT takes the values as Hounsfield units; "
        "recipe.modality=MR (PT …) scales each volume to its own 0.5 and 99.5 percentiles"
    )


FAINT = 0.1  # of the window: what is below may be the noise of the background (other modalities than CT)
TISSUE = 0.01  # smallest share of tissue in a slice that is not empty
SQUARE = 0.01  # relative difference of height and width up to which a pixel counts as square


EMPTY = "a slice without tissue"
NO_HOUNSFIELD = "values that are hardly Hounsfield units (none below 0, or all within 100), as"


class Noted(NamedTuple):
    """An oddity of an input that is accepted all the same."""

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
            in_header = item.record.modality == "CT"
            yield Noted(f"{NO_HOUNSFIELD} {'its header says CT' if in_header else 'recipe.modality=CT reads them'}")
        if isinstance(image, Volume):
            yield from map(Noted, image.notes)
        if recipe.slices is None:
            yield sample_of(item, image, recipe)
        else:
            yield from _slices(item, image, recipe)
    except QuarantinedError as rejection:
        yield Refused(item.key, rejection.stage, rejection.reason)


def _slices(item: Item, source: GreyImage | Volume, recipe: Recipe) -> Iterator[Sample | Refused]:
    """Every n-th slice (``recipe.slices.every``), from the feet to the head, at the finer of the two spacings within a
    slice; refused if less than ``TISSUE`` of it is above ``SKIN`` (CT) or ``FAINT`` (others), or it shows nothing.

    Raises QuarantinedError before the first slice, never after it.
    """
    assert recipe.slices is not None
    assert isinstance(source, Volume)
    if source.voxels.ndim == 4:
        raise QuarantinedError("check", "a volume of several channels: slices have one")
    with quarantines("geometry"):
        volume, mask, boxes = prepared(item, source, recipe)
        apart, down, across = volume.spacing
        if abs(down - across) > SQUARE * min(down, across):  # else slices would be distorted
            volume, mask, boxes = resample(volume, mask, boxes, (apart, min(down, across), min(down, across)))
    window = GreyWindow(volume.low, volume.high, 1)  # what becomes black and white
    is_ct = recipe.reading.modality == "CT"
    floor = (SKIN - volume.offset) / volume.scale if is_ct else volume.low + FAINT * (volume.high - volume.low)
    depth, height, width = volume.shape
    extents = []  # of each box: the slices whose middle is inside; for a thinner one, that which its own middle is in
    for box in boxes:
        first, end, middle = math.ceil(box.z - 0.5), math.ceil(box.z + box.d - 0.5), math.floor(box.z + box.d / 2)
        extents.append(range(first, end) if first < end else range(middle, middle + 1))
    for z in range(0, depth, recipe.slices.every):
        key, image = slice_key(item.key, z), store(volume.voxels[z], window, recipe.bits, volume.spacing[1:])
        if image.flat or float(np.mean(volume.voxels[z] > floor)) < TISSUE:
            yield Refused(key, "check", EMPTY)
            continue
        drawn = zip(boxes, extents, strict=True)
        inside = tuple(box._replace(z=0.0, d=1.0) for box, extent in drawn if z in extent)
        try:
            with quarantines("check"):
                sample = make_picture(item, image, None if mask is None else mask[z], inside, recipe)
        except QuarantinedError as rejection:
            yield Refused(key, rejection.stage, rejection.reason)
            continue
        position = float(volume.affine[2] @ [(width - 1) / 2, (height - 1) / 2, z, 1])  # of its centre, in mm
        attributes = sample.row["attributes"] | {SLICE: str(z), POSITION: f"{position:.1f}"}
        attributes |= {FILLED: str(source.filled)} if source.filled else {}
        yield sample._replace(row=sample.row | {"key": key, "attributes": attributes})
