"""Name and modality of a dataset whose recipe leaves them null."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dira_scale.archive.output import PARTIAL, PLAN_FILE
from dira_scale.archive.plan import Item
from dira_scale.data.manifest import INFO_FILE
from dira_scale.errors import UserError
from dira_scale.imaging.volumes.read import is_volume
from dira_scale.imaging.volumes.series import MODALITIES as VOLUMES
from dira_scale.storage.store import as_os_error, is_local
from dira_scale.storage.text import brief

UNKNOWN = "unknown"
# Those of DICOM (PS3.3 C.7.3.1.1.1) that are images. A header may hold any text, so other values are not published.
MODALITIES = {
    "BI", "CR", "CT", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "MG", "MR", "NM", "OCT", "OP", "OPT", "OT", "PT", "PX",
    "RF", "RG", "SC", "SM", "US", "XA", "XC",
}  # fmt: skip


def completed(recipe: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The keys ``recipe``; name and modality, if null, are those of the dataset at ``out``, finished or begun.

    Thus a dataset that was moved is still that of its recipe. A new one is named after its folder. Its modality stays
    null: that of its inputs (:func:`modality_of`, :func:`with_modality`).

    Raises OSError.
    """
    stored = _stored(out)
    name = recipe.get("name") or stored.get("name") or _folder_name(out)
    return {**recipe, "name": name, "modality": recipe.get("modality") or stored.get("modality")}


def modality_of(modalities: Iterable[str | None]) -> str:
    """The modalities of all inputs, each once: ``DX``, ``CR, DX``, ``DX, unknown``."""
    names = {kind if kind in MODALITIES else UNKNOWN for kind in modalities}
    return ", ".join(sorted(names, key=lambda name: (name == UNKNOWN, name))) or UNKNOWN


def with_modality(recipe: Mapping[str, Any], plan: Iterable[Item]) -> dict[str, Any]:
    """The keys ``recipe`` of volumes; a modality that is null becomes the one that the DICOM headers of all say.

    It decides what the values mean, so it is never guessed from them. Raises UserError where a volume has no header
    that says it, or they say several. Files that are no volumes have no say: they are refused when they are read.
    """
    if recipe["modality"] or recipe["dims"] != 3:
        return dict(recipe)
    counts, first = Counter[str](), dict[str, str]()
    for record in (item.record for item in plan if item.record.rejected is None):
        if not record.modality and UNKNOWN not in counts and not is_volume(record.image):
            continue
        counts[record.modality or UNKNOWN] += 1
        first.setdefault(record.modality or UNKNOWN, record.name)
    told = [kind for kind in VOLUMES if kind in counts] or sorted(MODALITIES & counts.keys())  # others: doses, masks
    if not counts:  # which is told when nothing is left to store
        return {**recipe, "modality": "CT"}
    if UNKNOWN in counts:
        others = f" and of {counts[UNKNOWN] - 1} more" if counts[UNKNOWN] > 1 else ""
        said = f"no DICOM header says what the values of {brief(first[UNKNOWN])}{others} are"
    elif len(told) == 1:
        return {**recipe, "modality": told[0]}
    else:
        each = ", ".join(f"{kind} ({counts[kind]} x)" for kind in told) or "none that is known"
        said = f"the DICOM headers say {each}"
    raise UserError(
        f"recipe.modality must be given: {said}. recipe.modality=CT takes the values as Hounsfield units; "
        "recipe.modality=MR (PT …) scales each volume to its own 0.5 and 99.5 percentiles"
    )


def _stored(out: Path) -> dict[str, str]:
    """The recipe of the dataset at ``out``; empty if there is none, or if it cannot be read, which others report."""
    for file in (out / INFO_FILE, out / PARTIAL / PLAN_FILE):
        with suppress(FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError), \
                as_os_error(out):  # fmt: skip
            recipe = json.loads(file.read_text())["recipe"]
            return {key: value for key, value in recipe.items() if isinstance(value, str)}
    return {}


def _folder_name(out: Path) -> str:
    name = Path(os.path.abspath(out)).name if is_local(out) else out.name  # noqa: PTH100 (a link keeps its name)
    return "".join(letter if letter.isprintable() else "_" for letter in name) or "dataset"
