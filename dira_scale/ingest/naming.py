"""Name and modality of a dataset whose recipe leaves them null."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dira_scale.data.manifest import INFO_FILE
from dira_scale.ingest.output import PARTIAL, PLAN_FILE
from dira_scale.places.store import as_os_error, is_local

UNKNOWN = "unknown"
# Those of DICOM (PS3.3 C.7.3.1.1.1) that are images. A header may hold any text, so other values are not published.
MODALITIES = {
    "BI", "CR", "CT", "DX", "ES", "GM", "IO", "IVOCT", "IVUS", "MG", "MR", "NM", "OCT", "OP", "OPT", "OT", "PT", "PX",
    "RF", "RG", "SC", "SM", "US", "XA", "XC",
}  # fmt: skip


def completed(recipe: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The keys ``recipe``; name and modality, if null, are those of the dataset at ``out``, finished or begun.

    Thus a dataset that was moved, or made when these had other defaults, is still that of its recipe. A new one is
    named after its folder. Its modality stays null: that of its inputs (:func:`modality_of`).

    Raises OSError.
    """
    stored = _stored(out)
    name = recipe.get("name") or stored.get("name") or _folder_name(out)
    return {**recipe, "name": name, "modality": recipe.get("modality") or stored.get("modality")}


def modality_of(found: Iterable[str | None]) -> str:
    """The modalities of all inputs, each once: ``DX``, ``CR, DX``, ``DX, unknown``."""
    names = {kind if kind in MODALITIES else UNKNOWN for kind in found}
    return ", ".join(sorted(names, key=lambda name: (name == UNKNOWN, name))) or UNKNOWN


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
