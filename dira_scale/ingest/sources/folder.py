"""A folder of PNG, JPEG or DICOM files, with or without a CSV of labels, patients, splits and masks."""

import csv
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import pydicom

from dira_scale.errors import UserError, nearest
from dira_scale.ingest.imaging import is_dicom
from dira_scale.ingest.sources.base import Box, Record

# Where a DICOM header holds what a recipe may ask for as an attribute.
HEADER = {"sex": "PatientSex", "age": "PatientAge", "view": "ViewPosition", "manufacturer": "Manufacturer"}
COLUMNS = ("file", "patient", "study", "split", "mask")


class Folder:
    """All files below ``images``; with ``labels`` each needs a row there (one without goes to quarantine).

    Args:
        images: the folder, searched through all levels; hidden files are left out.
        labels: CSV with a header. A file or mask in it is given relative to ``images`` or to the CSV's own folder.
        boxes: CSV with the columns file, label, y, x, h, w (pixels; y, x is the upper left corner).
        columns: names of the CSV's columns for file, patient, study, split and mask; null = it has none.
        label_columns: columns that are labels; null = every other column that holds only numbers.
        label_rules: more labels from categories: ``{pneumonia: {label: PNEUMONIA}}`` is 1 where the column ``label``
            says PNEUMONIA, NaN where it is empty, else 0.
        attributes: any of sex, age, view, manufacturer: from the column of that name, else from the DICOM header.

    Without a patient column, patient and study come from the DICOM header; another image is a patient of its own.

    Raises:
        UserError: a file, folder or column that was named does not exist; two rows name one file; a label is no number.
    """

    def __init__(
        self,
        images: str,
        labels: str | None = None,
        boxes: str | None = None,
        columns: Mapping[str, str | None] | None = None,
        label_columns: Sequence[str] | None = None,
        label_rules: Mapping[str, Mapping[str, str]] | None = None,
        attributes: Sequence[str] = (),
    ):
        self.root = Path(images).resolve()
        if not self.root.is_dir():
            raise UserError(f"recipe.images={images}: no such folder")
        self.csv = Path(labels).resolve() if labels else None
        self.columns = {name: column for name, column in (columns or {}).items() if column} if labels else {}
        if unknown := self.columns.keys() - set(COLUMNS):
            raise UserError(f"recipe.columns has no '{unknown.pop()}', only {', '.join(COLUMNS)}")
        self.attributes, self.rules = attributes, label_rules or {}
        self.rows: dict[Path, dict[str, str]] = {}
        numeric: Sequence[str] = ()
        if self.csv:
            names = [*self.columns.values(), *(label_columns or ()), *(c for r in self.rules.values() for c in r)]
            table = _read_csv(self.csv, names, "recipe.columns, label_columns or label_rules")
            numeric = label_columns if label_columns is not None else self._numeric(table)
            self._index(table)
        self.numeric = tuple(numeric)
        self.label_names = (*self.numeric, *self.rules)
        self.lists = {path for path in (self.csv, Path(boxes).resolve() if boxes else None) if path}
        self.boxes: dict[Path, list[Box]] = {}
        if boxes:
            self._index_boxes(Path(boxes).resolve())

    def records(self, workers: int) -> Iterator[Record]:
        """Listed files first (one that is missing is found out when it is read), then files without a row.

        Masks and the CSVs may lie among the images: they are no inputs.
        """
        for path in self.rows:
            yield self._record(path)
        known = self.rows.keys() | self._masks() | self.lists
        for path in sorted(self.root.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(self.root).parts)
            if path in known or hidden or not path.is_file():
                continue
            yield (
                self._record(path)
                if self.csv is None
                else Record(self._name(path), path, labels=self._labels({}), rejected="no row in the CSV of labels")
            )

    def _record(self, path: Path) -> Record:
        row = self.rows.get(path, {})
        told = {name: row[column].strip() or None for name, column in self.columns.items() if row}
        attributes = {name: row[name] for name in self.attributes if row.get(name)}
        if "patient" not in told or len(attributes) < len(self.attributes):
            header = _header(path)
            attributes = {name: header[name] for name in self.attributes if name in header} | attributes
            if "patient" not in told:
                told |= {name: header.get(name) for name in ("patient", "study") if not told.get(name)}
        mask = told.pop("mask", None)
        told.pop("file", None)
        return Record(
            name=self._name(path),
            image=path,
            labels=self._labels(row),
            boxes=tuple(self.boxes.get(path, ())),
            mask=self._resolve(mask, self.csv) if mask and self.csv else None,
            attributes=attributes,
            **told,
        )

    def _masks(self) -> set[Path]:
        if self.csv is None or "mask" not in self.columns:
            return set()
        cells = (row[self.columns["mask"]] for row in self.rows.values())
        return {self._resolve(cell, self.csv) for cell in cells if cell.strip()}

    def _labels(self, row: Mapping[str, str]) -> tuple[float, ...]:
        plain = [_number(row.get(column, ""), self.csv) for column in self.numeric]
        for rule in self.rules.values():
            cells = {column: row.get(column, "").strip() for column in rule}
            known = all(cells.values())
            plain.append(float(cells == dict(rule)) if known else math.nan)
        return tuple(plain)

    def _index(self, table: list[dict[str, str]]) -> None:
        assert self.csv is not None
        if "file" not in self.columns:
            raise UserError(f"recipe.columns.file must name the column of {self.csv} that holds the file names")
        lines: dict[Path, int] = {}
        for line, row in enumerate(table, start=2):
            path = self._resolve(row[self.columns["file"]], self.csv)
            if path in lines:
                raise UserError(f"{self.csv}: lines {lines[path]} and {line} name the same file {path.name}: keep one")
            self.rows[path], lines[path] = row, line

    def _index_boxes(self, path: Path) -> None:
        for row in _read_csv(path, ["file", *Box._fields], "a file of boxes"):
            box = Box(row["label"], *(_number(row[side], path) for side in "yxhw"))
            self.boxes.setdefault(self._resolve(row["file"], path), []).append(box)
        if not any(file.exists() for file in self.boxes):
            raise UserError(f"{path}: none of the files that it names is in {self.root}")

    def _numeric(self, table: list[dict[str, str]]) -> list[str]:
        taken = {*self.columns.values(), *self.attributes, *(c for rule in self.rules.values() for c in rule)}
        return [
            column
            for column in (table[0] if table else ())
            if column not in taken
            and any(row[column].strip() for row in table)
            and all(_is_number(row[column]) for row in table)
        ]

    def _resolve(self, cell: str, listed_in: Path) -> Path:
        inside = self.root / cell.strip()
        beside = listed_in.parent / cell.strip()
        return beside if not inside.exists() and beside.exists() else inside

    def _name(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.root)).as_posix()


def _header(path: Path) -> dict[str, str]:
    """Patient, study and attributes of a DICOM file; nothing of another file, nor of one too broken to tell."""
    try:
        with path.open("rb") as file:
            return _dicom_header(file) if is_dicom(file) else {}
    except OSError:
        return {}  # found out, counted and quarantined when the image is read


def _dicom_header(file: BinaryIO) -> dict[str, str]:
    tags = {"patient": "PatientID", "study": "StudyInstanceUID", **HEADER}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of odd values by printing them
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(tags.values()))
            return {name: str(header[tag].value) for name, tag in tags.items() if tag in header and header[tag].value}
    except Exception:  # whatever a damaged header raises, reading the image raises it again and quarantines the file
        return {}


def _read_csv(path: Path, columns: Sequence[str], named_by: str) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, restval="")
        present = reader.fieldnames or []
        for column in columns:
            if column not in present:
                known = nearest(column, present) or f"; it has {', '.join(present)}"
                raise UserError(f"{path} has no column '{column}' ({named_by}){known}")
        return list(reader)


def _number(cell: str, path: Path | str | None) -> float:
    if not _is_number(cell):
        raise UserError(f"{path}: '{cell}' is not a number; for categories use recipe.label_rules")
    return float(cell) if cell.strip() else math.nan


def _is_number(cell: str) -> bool:
    try:
        float(cell or "nan")
    except ValueError:
        return not cell.strip()
    return True
