"""A folder of PNG, JPEG or DICOM files, with or without a CSV of labels, patients, splits and masks."""

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dira_scale.errors import UserError
from dira_scale.ingest.dicom import HEADER
from dira_scale.ingest.sources.base import Box, Record
from dira_scale.ingest.sources.files import files_below, header_of, real, size_of
from dira_scale.ingest.sources.table import flags_and_numbers, number, read_boxes, read_table
from dira_scale.ingest.verdict import BadImage

COLUMNS = ("file", "patient", "study", "split", "mask")
CHUNK = 1024  # files that the threads are given at a time


class Listed(NamedTuple):
    """A file under its name, with its row of the CSV where it has one, and its labels."""

    name: str
    row: Mapping[str, str] | None
    labels: tuple[float, ...]


class Folder:
    """All files below ``images``; with ``labels`` each needs a row there (one without goes to quarantine).

    A file is who it really is: two paths to it, through symbolic links or ``..``, are one file.

    Args:
        images: the folder, searched through all levels and symbolic links; hidden files are left out.
        labels: CSV with a header. A file or mask in it is given relative to ``images`` or to the CSV's own folder.
        boxes: CSV with the columns file, label, y, x, h, w (pixels; y, x is the upper left corner).
        columns: names of the CSV's columns for file, patient, study, split and mask; null = it has none.
        label_columns: columns that are labels; null = every other column that holds only 0, 1, -1 or nothing.
        label_rules: more labels from categories: ``{pneumonia: {label: PNEUMONIA}}`` is 1 where the column ``label``
            says PNEUMONIA, NaN where it is empty, else 0.
        attributes: any of sex, age, view, manufacturer: from the column of that name, else from the DICOM header.

    Without a patient column, patient and study come from the DICOM header; another image is a patient of its own. With
    one, a row that leaves it blank goes to quarantine.

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
        self.numeric, self.guessed = tuple(label_columns or ()), ""
        self.listed: dict[Path, Listed] = {}
        if self.csv:
            self._index(self.csv, guess=label_columns is None)
        self.label_names = (*self.numeric, *self.rules)
        self.lists = {path for path in (self.csv, Path(boxes).resolve() if boxes else None) if path}
        self.boxes: dict[Path, list[Box]] = {}
        if boxes:
            self._index_boxes(Path(boxes).resolve())

    def records(self, workers: int) -> Iterator[Record]:
        """Listed files (one that is missing is found out when it is read) and files without a row.

        Masks and the CSVs may lie among the images: they are no inputs.
        """
        if self.guessed:
            print(self.guessed)
        columns = (TextColumn("listing"), BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeRemainingColumn())
        with Progress(*columns) as bar, warnings.catch_warnings(), ThreadPoolExecutor(4 * workers) as pool:
            warnings.simplefilter("ignore")  # pydicom warns of odd values by printing them
            task = bar.add_task("", total=None)
            files, known, unknown = dict(self.listed), self._masks() | self.lists, (math.nan,) * len(self.label_names)
            for path in files_below(self.root):
                file = real(path)
                if file not in known:
                    files.setdefault(file, Listed(self._name(path, file), None, unknown))
            bar.update(task, total=len(files))
            paths = list(files)
            for start in range(0, len(paths), CHUNK):  # reading a header is waiting for the disk: hence threads
                chunk = paths[start : start + CHUNK]
                for record in pool.map(self._record, chunk, (files[path] for path in chunk)):
                    bar.advance(task)
                    yield record

    def _record(self, path: Path, listed: Listed) -> Record:
        row = listed.row or {}
        record = Record(listed.name, path, labels=listed.labels, boxes=tuple(self.boxes.get(path, ())))
        if self.csv and listed.row is None:
            return replace(record, rejected="no row in the CSV of labels")
        told = {name: row[column].strip() or None for name, column in self.columns.items()}
        if "patient" in told and not told["patient"]:  # the header's may be another name for a patient of the CSV
            return replace(record, rejected="no patient in the CSV")
        attributes = {name: row[name] for name in self.attributes if row.get(name)}
        try:
            size = size_of(path)
            header = header_of(path) if not told.get("patient") or len(attributes) < len(self.attributes) else {}
        except BadImage as error:
            return replace(record, rejected=str(error))
        if not told.get("patient"):
            told["patient"] = header.get("patient")
            told["study"] = told.get("study") or header.get("study")
        mask = told.get("mask")
        return replace(
            record,
            patient=told["patient"],
            study=told.get("study"),
            split=told.get("split"),
            mask=real(self._place(mask, self.csv)) if mask and self.csv else None,
            attributes={name: header[name] for name in self.attributes if name in header} | attributes,
            size=size,
        )

    def _masks(self) -> set[Path]:
        if self.csv is None or "mask" not in self.columns:
            return set()
        cells = (listed.row[self.columns["mask"]] for listed in self.listed.values() if listed.row)
        return {real(self._place(cell, self.csv)) for cell in cells if cell.strip()}

    def _labels(self, row: Mapping[str, str], where: str) -> tuple[float, ...]:
        plain = [number(row[column], f"{where}, {column}") for column in self.numeric]
        for rule in self.rules.values():
            cells = {column: row[column].strip() for column in rule}
            known = all(cells.values())
            plain.append(float(cells == dict(rule)) if known else math.nan)
        return tuple(plain)

    def _index(self, path: Path, guess: bool) -> None:
        ruled = [column for rule in self.rules.values() for column in rule]
        named = [*self.columns.values(), *self.numeric, *ruled]
        table = read_table(path, named, "recipe.columns, label_columns or label_rules")
        if "file" not in self.columns:
            raise UserError(f"recipe.columns.file must name the column of {path} that holds the file names")
        if guess:
            flags, others = flags_and_numbers(table, {*named, *HEADER})
            self.numeric = tuple(flags)
            self.guessed = f"{path.name}: labels are {', '.join([*flags, *self.rules]) or 'none of the columns'}"
            if others:
                self.guessed += f"; no labels: {', '.join(others)} (name it in recipe.label_columns if it is one)"
        lines: dict[Path, int] = {}
        for line, row in table:
            place = self._place(row[self.columns["file"]], path)
            file = real(place)
            if file in lines:
                raise UserError(f"{path}: lines {lines[file]} and {line} name the same file {file.name}: keep one")
            labels = self._labels(row, f"{path}, line {line}")
            self.listed[file], lines[file] = Listed(self._name(place, file), row, labels), line

    def _index_boxes(self, path: Path) -> None:
        for file, box in read_boxes(path):
            self.boxes.setdefault(real(self._place(file, path)), []).append(box)
        if not any(file.exists() for file in self.boxes):
            raise UserError(f"{path}: none of the files that it names is in {self.root}")

    def _place(self, cell: str, listed_in: Path) -> Path:
        inside = self.root / cell.strip()
        beside = listed_in.parent / cell.strip()
        return beside if not inside.exists() and beside.exists() else inside

    def _name(self, path: Path, file: Path) -> str:
        """Relative to ``images``: of the file itself, or of the link to it where it lies elsewhere."""
        return Path(os.path.relpath(file if file.is_relative_to(self.root) else path, self.root)).as_posix()
