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

from dira_scale.errors import UserError
from dira_scale.storage.atomic import write_atomic
from dira_scale.storage.owned import own

OMITTED = {"findings": "all"}  # defaults of settings that older folders lack
Make = Callable[[int], None]  # writes one patient's files
Run = Callable[[Make, Sequence[int], int], None]  # calls it for the patients; the number is of those already finished


def one_by_one(make: Make, patients: Sequence[int], finished: int = 0) -> None:
    """Run in this process."""
    for patient in patients:
        make(patient)


def check_sizes(patients: Any, size: Any, smallest: int) -> None:
    """Raises UserError for numbers of which no phantoms can be made."""
    if not (isinstance(patients, int) and isinstance(size, int)) or patients < 1 or size < smallest:
        raise UserError(f"phantoms need patients >= 1 and size >= {smallest}, not patients={patients}, size={size}")


def fill(
    folder: Path,
    settings: Mapping[str, Any],
    patients: int,
    make: Make,
    run: Run,
    tables: Callable[[list[dict[str, Any]]], Mapping[str, str]],
) -> None:
    """Let ``run`` call ``make(patient)``, which ends with `save_record`, for each missing patient; then write tables.

    tables: maps the patients' records to the text of each file. Raises UserError if the folder was made with other
    settings, or holds more patients.
    """
    finished = _finished(folder, settings)
    if finished > patients:
        raise UserError(f"{folder} already holds {finished} patients: ask for at least as many, or use another folder")
    if finished == patients:
        return
    own(folder, "phantoms", "recipe.images")
    (folder / "records").mkdir(exist_ok=True)
    write(folder / "settings.json", json.dumps(settings).encode())
    missing = [p for p in range(patients) if not _record(folder, p)]
    run(make, missing, patients - len(missing))
    for name, text in tables([r for p in range(patients) for r in _record(folder, p) or []]).items():
        write(folder / name, text.encode())
    write(folder / "phantom.json", json.dumps({**settings, "patients": patients}).encode())


def save_record(folder: Path, patient: int, rows: list[dict[str, Any]]) -> None:
    """Mark a patient as finished. ``rows``: one per study; its ``row`` is the line of ``labels.csv``."""
    write(folder / "records" / f"{patient:05d}.json", json.dumps(rows).encode())


def write(path: Path, content: bytes) -> None:
    """Write atomically; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def as_csv(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table's text."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(header)
    lines.writerows(rows)
    return text.getvalue()


def _finished(folder: Path, settings: Mapping[str, Any]) -> int:
    """The number of patients of a finished folder, else 0. Raises UserError for other settings."""
    for name in ("phantom.json", "settings.json"):
        if (folder / name).exists():
            stored = OMITTED | json.loads((folder / name).read_text())
            for key, value in {**OMITTED, **settings}.items():
                if stored.get(key) != value:
                    raise UserError(
                        f"{folder} holds phantoms made with {key}={stored.get(key)}, not {value}: "
                        "use another folder, or remove this one"
                    )
    if not (folder / "phantom.json").exists():
        return 0
    return int(json.loads((folder / "phantom.json").read_text())["patients"])


def _record(folder: Path, patient: int) -> list[dict[str, Any]] | None:
    """The rows of a finished patient, None if any of its files is missing."""
    path = folder / "records" / f"{patient:05d}.json"
    if not path.exists():
        return None
    rows = json.loads(path.read_text())
    there = all((folder / r["row"][k]).exists() for r in rows for k in ("file", "mask"))
    return rows if there else None
