"""A folder of phantom patients, written by any number of processes and calls.

FOLDER/records/ has a small file per finished patient, to resume an interrupted call; settings.json the folder's
settings; phantom.json the same with the number of patients, written last.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError
from dira_scale.base.machine.progress import bar
from dira_scale.base.machine.workers import parallel_map
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.owned import own


def check_sizes(patients: Any, size: Any, smallest: int) -> None:
    """Raises UserError for numbers of which no phantoms can be made."""
    if not (isinstance(patients, int) and isinstance(size, int)) or patients < 1 or size < smallest:
        raise UserError(f"phantoms need patients >= 1 and size >= {smallest}, not patients={patients}, size={size}")


def fill(
    folder: Path, settings: dict[str, Any], patients: int, make: Callable[[int], None], workers: int, box: Sequence[str]
) -> None:
    """Call ``make(patient)``, which ends with `save_record`, for each missing patient; then write the tables.

    box: the columns of a box. Raises UserError if the folder was made with other settings, or holds more patients.
    """
    for path in (folder / "phantom.json", folder / "settings.json"):
        stored = json.loads(path.read_text()) if path.exists() else settings
        for key, value in settings.items():
            if stored.get(key) != value:
                found = f"{folder} holds phantoms made with {key}={stored.get(key)}, not {value}"
                raise UserError(f"{found}: use another folder, or remove this one")
        finished = stored.get("patients", 0)
        if finished > patients:
            raise UserError(
                f"{folder} already holds {finished} patients: ask for at least as many, or use another folder"
            )
        if finished == patients:
            return
    own(folder, "phantoms", "recipe.images")
    (folder / "records").mkdir(exist_ok=True)
    write(folder / "settings.json", json.dumps(settings).encode())
    missing = [p for p in range(patients) if not _record(folder, p)]
    with bar("phantoms", "patients") as progress:
        task = progress.add_task("", total=patients, completed=patients - len(missing))
        for _ in parallel_map(make, ((patient,) for patient in missing), max(1, min(workers, len(missing)))):
            progress.advance(task)
    records = [r for p in range(patients) for r in _record(folder, p) or []]
    tables: dict[str, list[Iterable[Any]]] = {"labels": [records[0]["row"]], "boxes": [("file", "label", *box)]}
    if "seriesuid" in records[0]["row"]:
        tables["annotations"] = [("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm")]
    for record in records:
        row = record["row"]
        tables["labels"].append(row.values())
        tables["boxes"] += [(row["file"], *values) for values in record["boxes"]]
        if "annotations" in tables:
            tables["annotations"] += [(row["seriesuid"], *values) for values in record["annotations"]]
    for name, lines in tables.items():
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows(lines)
        write(folder / f"{name}.csv", text.getvalue().encode())
    write(folder / "phantom.json", json.dumps({**settings, "patients": patients}).encode())


def save_record(folder: Path, patient: int, rows: list[dict[str, Any]]) -> None:
    """Mark a patient as finished. ``rows``: one per study; its ``row`` is the line of ``labels.csv``."""
    write(folder / "records" / f"{patient:05d}.json", json.dumps(rows).encode())


def write(path: Path, content: bytes) -> None:
    """Write atomically; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _record(folder: Path, patient: int) -> list[dict[str, Any]] | None:
    """The rows of a finished patient, None if any of its files is missing."""
    path = folder / "records" / f"{patient:05d}.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    return rows if rows and all((folder / r["row"][k]).exists() for r in rows for k in ("file", "mask")) else None
