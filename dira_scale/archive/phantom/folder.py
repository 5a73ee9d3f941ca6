"""A folder of phantom patients, written by any number of processes and calls.

FOLDER/records/       one small file per finished patient, to resume an interrupted call
FOLDER/settings.json  the settings of the folder
FOLDER/phantom.json   the same with the number of patients, written last
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError
from dira_scale.base.machine.progress import bar
from dira_scale.base.machine.workers import parallel_map
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.owned import own

OMITTED = {"findings": "all"}  # defaults of settings that older folders lack


def check_sizes(patients: Any, size: Any, smallest: int) -> None:
    """Raises UserError for numbers of which no phantoms can be made."""
    if not (isinstance(patients, int) and isinstance(size, int)) or patients < 1 or size < smallest:
        raise UserError(f"phantoms need patients >= 1 and size >= {smallest}, not patients={patients}, size={size}")


def fill(
    folder: Path,
    settings: Mapping[str, Any],
    patients: int,
    make: Callable[[int], None],
    workers: int,
    box: Sequence[str],
) -> None:
    """Call ``make(patient)``, which ends with `save_record`, for each missing patient; then write the tables.

    box: the columns of a box. Raises UserError if the folder was made with other settings, or holds more patients.
    """
    for name in ("phantom.json", "settings.json"):
        if (folder / name).exists():
            stored = OMITTED | json.loads((folder / name).read_text())
            for key, value in {**OMITTED, **settings}.items():
                if stored.get(key) != value:
                    raise UserError(
                        f"{folder} holds phantoms made with {key}={stored.get(key)}, not {value}: "
                        "use another folder, or remove this one"
                    )
    if (folder / "phantom.json").exists():
        finished = int(json.loads((folder / "phantom.json").read_text())["patients"])
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
    _write_table(folder / "labels.csv", [*records[0]["row"]], (r["row"].values() for r in records))
    boxes = ((r["row"]["file"], *values) for r in records for values in r["boxes"])
    _write_table(folder / "boxes.csv", ("file", "label", *box), boxes)
    if "annotations" in records[0]:
        balls = ((r["row"]["seriesuid"], *values) for r in records for values in r["annotations"])
        _write_table(folder / "annotations.csv", ("seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"), balls)
    write(folder / "phantom.json", json.dumps({**settings, "patients": patients}).encode())


def save_record(folder: Path, patient: int, rows: list[dict[str, Any]]) -> None:
    """Mark a patient as finished. ``rows``: one per study; its ``row`` is the line of ``labels.csv``."""
    write(folder / "records" / f"{patient:05d}.json", json.dumps(rows).encode())


def write(path: Path, content: bytes) -> None:
    """Write atomically; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(rows)
    write(path, text.getvalue().encode())


def _record(folder: Path, patient: int) -> list[dict[str, Any]] | None:
    """The rows of a finished patient, None if any of its files is missing."""
    path = folder / "records" / f"{patient:05d}.json"
    if not path.exists():
        return None
    rows = json.loads(path.read_text())
    complete = all((folder / r["row"][k]).exists() for r in rows for k in ("file", "mask"))
    return rows if complete else None
