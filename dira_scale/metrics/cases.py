"""Per-case rows: what a run said of each case, from which every figure can be computed again. Their Parquet files.

A file has rows of labels or of masks. It names cases by the manifest's keys, never by paths or DICOM's identifiers.
"""

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.errors import UserError
from dira_scale.storage.atomic import write_atomic

CASES = "cases"  # the folder of a run that has them
KIND = b"dira_scale.cases"  # in the schema's metadata, with the version
ABOUT = [("key", pa.string()), ("patient", pa.string()), ("split", pa.string()), ("label", pa.string())]
LABELS = pa.schema(
    [*ABOUT, ("target", pa.float32()), ("probability", pa.float64())],  # target: 0 or 1, null = unknown
    metadata={KIND: b"labels 1"},
)
MASKS = pa.schema(
    [
        *ABOUT,  # label: the class
        ("empty", pa.string()),  # which mask is: "" (neither), "prediction", "target", "both"
        ("dice", pa.float64()),  # null where both are empty, as all metrics
        ("iou", pa.float64()),
        ("hd95", pa.float64()),  # in ``unit``; infinite where one mask is empty
        ("surface_dice", pa.float64()),
        ("tolerance", pa.float64()),  # of the surface Dice, in ``unit``
        ("unit", pa.string()),  # "mm" where the spacing is known, else "pixels"
        ("overlap", pa.int64()),  # pixels or voxels in both masks
        ("predicted", pa.int64()),  # in the prediction
        ("present", pa.int64()),  # in the target
    ],
    metadata={KIND: b"masks 1"},
)
A_PATH_OR_DICOM_ID = re.compile(r"[/\\]|^\d+(\.\d+){3,}$")


@dataclass(frozen=True, slots=True)
class LabelCase:
    """A label, or a class against the rest, of one case. ``target``: 0, 1 or NaN (unknown)."""

    key: str
    patient: str
    split: str
    label: str
    target: float
    probability: float


@dataclass(frozen=True, slots=True)
class MaskCase:
    """A class of one case, as :func:`~dira_scale.metrics.segmentation.mask_cases` measures it: fields of ``MASKS``."""

    key: str
    patient: str
    split: str
    label: str
    empty: str
    dice: float
    iou: float
    hd95: float
    surface_dice: float
    tolerance: float
    unit: str
    overlap: int
    predicted: int
    present: int


Case = TypeVar("Case", LabelCase, MaskCase)


def label_cases(
    keys: Sequence[str],
    patients: Sequence[str],
    split: str,
    names: Sequence[str],
    targets: np.ndarray,
    scores: np.ndarray,
) -> list[LabelCase]:
    """A row for each of N keys and L names. ``targets``, ``scores``: [N, L]."""
    return [
        LabelCase(key, patient, split, name, float(target), float(score))
        for key, patient, values in zip(keys, patients, zip(targets, scores, strict=True), strict=True)
        for name, target, score in zip(names, *values, strict=True)
    ]


def label_arrays(cases: Sequence[LabelCase]) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Of :func:`merged` rows: targets [N, L], scores [N, L], names [L], patients [N]; what ``classification`` takes."""
    names = list(dict.fromkeys(case.label for case in cases))
    each = max(1, len(names))  # rows of a case
    if [case.label for case in cases] != names * (len(cases) // each):
        raise ValueError("each case must have a row for each label, in one order")
    targets, scores = (
        np.array([getattr(case, field) for case in cases], float).reshape(len(cases) // each, len(names))
        for field in ("target", "probability")
    )
    return targets, scores, names, [case.patient for case in cases[::each]]


def merged(parts: Iterable[Sequence[Case]]) -> list[Case]:
    """All processes' rows, in the order of keys, a case's in their own: the same for any number of processes.

    Raises ValueError if a label of a case is there twice, as where processes pad their shares to the same length.
    """
    rows = sorted((case for part in parts for case in part), key=lambda case: case.key)
    if len({(case.key, case.label) for case in rows}) < len(rows):
        raise ValueError("several processes have scored the same case: each case must have one row for each label")
    return rows


def write_cases(path: Path, cases: Sequence[LabelCase] | Sequence[MaskCase]) -> None:
    """Write rows of one kind, NaN as null.

    Raises ValueError for rows of both kinds or none, and for a key or patient that is a path or a DICOM identifier;
    OSError.
    """
    kinds = {type(case) for case in cases}
    if len(kinds) != 1:
        raise ValueError(f"{path} must have rows of labels or of masks, not of {len(kinds)} kinds")
    if wrong := [name for case in cases for name in (case.key, case.patient) if A_PATH_OR_DICOM_ID.search(name)]:
        raise ValueError(f"{path}: {len(wrong)} keys or patients are paths or DICOM identifiers, not a manifest's keys")
    schema = LABELS if kinds == {LabelCase} else MASKS
    columns = {name: [getattr(case, name) for case in cases] for name in schema.names}
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in schema]
    file = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=schema), file, compression="zstd")
    write_atomic(path, file.getvalue())


def read_cases(path: Path) -> list[LabelCase] | list[MaskCase]:
    """The rows of a file, null as NaN. Raises UserError for another file; OSError."""
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file of cases: {error}") from error
    if _is(table.schema, LABELS):
        return [LabelCase(**row) for row in _rows(table)]
    if _is(table.schema, MASKS):
        return [MaskCase(**row) for row in _rows(table)]
    raise UserError(f"{path} has no rows of cases of this version: compute the metrics again")


def _is(schema: pa.Schema, expected: pa.Schema) -> bool:
    return bool(schema.equals(expected) and (schema.metadata or {}).get(KIND) == expected.metadata[KIND])


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    return [
        {name: float("nan") if value is None else value for name, value in row.items()} for row in table.to_pylist()
    ]
