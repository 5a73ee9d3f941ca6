"""The modality of a dataset whose recipe leaves it null: what the DICOM headers of its inputs say."""

from collections import Counter
from collections.abc import Iterable

from dira_scale.archive.plan import Item
from dira_scale.archive.recipe import Recipe
from dira_scale.errors import UserError
from dira_scale.imaging.volumes.read import is_volume
from dira_scale.imaging.volumes.series import MODALITIES as VOLUMES
from dira_scale.storage.text import brief

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
    found = [kind for kind in VOLUMES if kind in counts] or sorted(MODALITIES & counts.keys())  # others: doses, masks
    if UNKNOWN in counts:
        others = f" and of {counts[UNKNOWN] - 1} more" if counts[UNKNOWN] > 1 else ""
        problem = f"no DICOM header says what the values of {brief(first[UNKNOWN])}{others} are"
    elif len(found) == 1:
        return recipe.of_modality(found[0])
    else:
        each = ", ".join(f"{kind} ({counts[kind]} x)" for kind in found) or "none that is known"
        problem = f"the DICOM headers say {each}"
    raise UserError(
        f"recipe.modality must be given: {problem}. recipe.modality=CT takes the values as Hounsfield units; "
        "recipe.modality=MR (PT …) scales each volume to its own 0.5 and 99.5 percentiles"
    )
