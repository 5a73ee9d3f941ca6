"""Per-case rows: a run's output for each case, from which every figure can be computed again. Their Parquet files.

A file has rows of one kind: of labels, masks, numbers or times. It names cases by the manifest's keys, never by paths
or DICOM's identifiers.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, TypeVar

from etils.epy import lazy_imports

from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import write_atomic

with lazy_imports():
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

CASES = "cases"  # the folder of a run that has them
KIND = b"dira_scale.cases"  # in the schema's metadata, with the version
TARGETS = ("target", "time", "event")  # fields
COLUMNS = {"str": "string", "float": "double", "int": "int64"}  # of a field's type
IRRELEVANT = "irrelevant"  # neither a lesion nor a false positive
A_PATH_OR_DICOM_ID = re.compile(r"[/\\]|^\d+(\.\d+){3,}$")


@dataclass(frozen=True, slots=True)
class _OfOne:
    """The subject of a row about one case. ``label``: also a class, or an event.

    Attributes:
        kind: what its rows are called in their files.
        plot: how pages draw them, by its name in ``pages.results``; empty: they do not.
    """

    kind: ClassVar[str]
    plot: ClassVar[str] = ""
    key: str
    patient: str
    split: str
    label: str


@dataclass(frozen=True, slots=True)
class LabelCase(_OfOne):
    """A label, or a class against the rest, of one case. ``target``: 0, 1 or NaN (unknown)."""

    kind, plot = "labels", "roc"
    target: float
    probability: float


@dataclass(frozen=True, slots=True)
class CandidateCase(LabelCase):
    """A candidate for a lesion.

    ``scan``: a keyed hash; ``lesion``: the names of the scan's lesions that it lies in, ``IRRELEVANT``, or empty: none;
    ``lesions``: how many the scan has.
    """

    kind = "candidates"
    scan: str
    lesion: str
    lesions: int


@dataclass(frozen=True, slots=True)
class MaskCase(_OfOne):
    """A class of one case, as :func:`~dira_scale.dataset.metrics.segmentation.mask_cases` measures it.

    Where both masks are empty all metrics are NaN.
    """

    kind = "masks"
    empty: str  # which mask is: "" (neither), "prediction", "target", "both"
    dice: float
    iou: float
    hd95: float  # in ``unit``; infinite where one mask is empty
    surface_dice: float
    tolerance: float  # of the surface Dice, in ``unit``
    unit: str  # "mm" where the spacing is known, else "pixels"
    overlap: int  # pixels or voxels in both masks
    predicted: int  # in the prediction
    present: int  # in the target


@dataclass(frozen=True, slots=True)
class NumberCase(_OfOne):
    """A number of one case, in its own unit. ``target``: NaN = unknown."""

    kind, plot = "numbers", "scatter"
    target: float
    prediction: float


@dataclass(frozen=True, slots=True)
class SurvivalCase(_OfOne):
    """A risk of one case. ``label``: the event; ``time``, ``event``: NaN = unknown; ``risk``: the logarithm of a hazard
    ratio."""

    kind = "times"
    time: float
    event: float
    risk: float


KINDS = (LabelCase, CandidateCase, MaskCase, NumberCase, SurvivalCase)
Case = LabelCase | MaskCase | NumberCase | SurvivalCase
C = TypeVar("C", LabelCase, MaskCase, NumberCase, SurvivalCase)
ImageCase = TypeVar("ImageCase", LabelCase, NumberCase)  # rows of whole images
Arrays: TypeAlias = "tuple[np.ndarray, np.ndarray, list[str], list[str]]"


def schema_of(kind: type[Case]) -> pa.Schema:
    """Return a column for each field; targets, which are labels of a dataset, are float32 as there."""
    columns = [(each.name, "float" if each.name in TARGETS else COLUMNS[str(each.type)]) for each in fields(kind)]
    return pa.schema(
        [(name, pa.type_for_alias(column)) for name, column in columns], metadata={KIND: f"{kind.kind} 1".encode()}
    )


def image_cases(
    kind: type[ImageCase],
    keys: Sequence[str],
    patients: Sequence[str],
    split: str,
    names: Sequence[str],
    targets: np.ndarray,
    predicted: np.ndarray,
) -> list[ImageCase]:
    """Return a row for each of N keys and L names. ``targets``, ``predicted``: [N, L]."""
    return [
        kind(key, patient, split, name, float(target), float(value))
        for key, patient, values in zip(keys, patients, zip(targets, predicted, strict=True), strict=True)
        for name, target, value in zip(names, *values, strict=True)
    ]


def label_arrays(cases: Sequence[LabelCase]) -> Arrays:
    """Return of :func:`merged` rows what ``classification`` takes: targets [N, L], scores [N, L], names [L],
    patients [N]."""
    return _arrays(cases, "probability")


def number_arrays(cases: Sequence[NumberCase]) -> Arrays:
    """Return of :func:`merged` rows what ``regression`` takes: targets [N, L], predictions [N, L], names [L],
    patients [N]."""
    return _arrays(cases, "prediction")


def survival_arrays(cases: Sequence[SurvivalCase]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return of rows what ``survival`` takes: times, events and risks, [N] each."""
    times, events, risks = (
        np.array([getattr(case, field) for case in cases], float) for field in ("time", "event", "risk")
    )
    return times, events, risks


def _arrays(cases: Sequence[LabelCase] | Sequence[NumberCase], predicted: str) -> Arrays:
    names = list(dict.fromkeys(case.label for case in cases))
    each = max(1, len(names))  # rows of a case
    if [case.label for case in cases] != names * (len(cases) // each):
        raise ValueError("each case must have a row for each label, in one order")
    targets, values = (
        np.array([getattr(case, field) for case in cases], float).reshape(len(cases) // each, len(names))
        for field in ("target", predicted)
    )
    return targets, values, names, [case.patient for case in cases[::each]]


def case_keys(cases: Sequence[LabelCase] | Sequence[NumberCase], each: int) -> list[str]:
    """Return the key of each case of ``each`` rows."""
    return [case.key for case in cases[:: max(1, each)]]


def merged(parts: Iterable[Sequence[C]]) -> list[C]:
    """All processes' rows, in the order of keys, a case's in their own: the same for any number of processes.

    Raises ValueError if a label of a case is there twice, as where processes pad their shares to the same length.
    """
    rows = sorted((case for part in parts for case in part), key=lambda case: case.key)
    if len({(case.key, case.label) for case in rows}) < len(rows):
        raise ValueError("several processes have scored the same case: each case must have one row for each label")
    return rows


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write rows of one kind, NaN as null.

    Raises ValueError for rows of several kinds or none, and for a key, patient or scan that is a path or a DICOM
    identifier; OSError.
    """
    kinds = {type(case) for case in cases}
    if len(kinds) != 1:
        raise ValueError(f"{path} must have rows of one kind, not of {len(kinds)}")
    named = {name for case in cases for name in (case.key, case.patient, getattr(case, "scan", ""))}
    if wrong := [*filter(A_PATH_OR_DICOM_ID.search, named)]:
        raise ValueError(f"{path}: {len(wrong)} keys, patients or scans are paths or DICOM identifiers, not hashes")
    schema = schema_of(kinds.pop())
    columns = {name: [getattr(case, name) for case in cases] for name in schema.names}
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in schema]
    file = io.BytesIO()
    pq.write_table(pa.table(arrays, schema=schema), file, compression="zstd")
    write_atomic(path, file.getvalue())


def read_cases(path: Path, kind: type[Case] | None = None) -> list[Any]:
    """Return the rows of a file, all of one kind, null as NaN; with ``kind`` none of a file of another kind.

    Raises UserError for another file; OSError.
    """
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise UserError(f"{path} is not a Parquet file of cases: {error}") from error
    for each in KINDS:
        expected, about = schema_of(each), table.schema.metadata or {}
        if table.schema.equals(expected) and about.get(KIND) == expected.metadata[KIND]:
            if kind is not None and not issubclass(each, kind):
                return []
            rows: list[dict[str, Any]] = [
                {name: float("nan") if value is None else value for name, value in row.items()}
                for row in table.to_pylist()
            ]
            return [each(**row) for row in rows]
    raise UserError(f"{path} has no rows of cases of this version: compute the metrics again")
