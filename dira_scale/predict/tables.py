"""The tables of a prediction: values, images that could not be used, and those by name beside the folder."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dira_scale.archive.output import names_file
from dira_scale.storage.atomic import write_atomic
from dira_scale.storage.owned import REJECTED
from dira_scale.storage.tables import harmless

PREDICTIONS, QUARANTINE = "predictions.csv", "quarantine.csv"


def write_predictions(out: Path, keys: Sequence[str], columns: Sequence[str], values: np.ndarray) -> None:
    """A row for each of N keys, with its ``values`` [N, columns]."""
    rows = ([key, *map(repr, row)] for key, row in zip(keys, values.tolist(), strict=True))
    _write(out / PREDICTIONS, ["key", *columns], rows)


def write_quarantine(out: Path, refused: Mapping[str, Mapping[str, str]]) -> None:
    """``refused``: stage and reason by key."""
    _write(out / QUARANTINE, ["key", "stage", "reason"], ([k, r["stage"], r["reason"]] for k, r in refused.items()))


def write_rejected_names(out: Path, refused: Iterable[tuple[str, Mapping[str, str]]]) -> Path:
    """Write the table by the files' names, which may identify patients: beside ``out``, readable by its owner only."""
    path = names_file(out)
    _write(path, REJECTED, ([name, row["stage"], row["reason"]] for name, row in refused), private=True)
    return path


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]], private: bool = False) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(map(harmless, [header, *rows]))
    write_atomic(path, text.getvalue().encode(errors="surrogateescape"), private=private)
