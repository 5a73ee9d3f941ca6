"""A folder of PNG, JPEG or DICOM files, with or without a CSV of labels, patients, splits and masks."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from dira_scale.archive.deidentify import check_lesions
from dira_scale.archive.imaging.dicom.header import HEADER
from dira_scale.archive.imaging.read import DicomFrame
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.boxes import read_boxes
from dira_scale.archive.sources.inspect import Inspected, Inspector, inspect_image
from dira_scale.archive.sources.label_columns import ClassColumns, ClassSpec, flags_and_numbers, number
from dira_scale.archive.sources.published import in_threads
from dira_scale.archive.sources.split_lists import UNMATCHED, PatientPattern, with_note
from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import UserError, print_line
from dira_scale.base.storage.path_index import PathIndex
from dira_scale.base.storage.store import is_local, locate
from dira_scale.base.storage.tables import TableRow, read_table
from dira_scale.base.storage.text import brief
from dira_scale.base.storage.walk import LinkResolver, Met, files_below, folder_at, resolve_links, walked

COLUMNS = ("file", "patient", "study", "split", "mask")
NOT_THERE = "named in the CSV, not there"
DOCUMENTS = {  # beside images, and never one
    ".csv", ".html", ".json", ".log", ".md", ".pdf", ".tsv", ".txt", ".xls", ".xlsx", ".xml", ".yaml", ".yml",
}  # fmt: skip
PACKED = (".7z", ".bz2", ".rar", ".tar", ".tar.gz", ".tgz", ".xz", ".zip")
SHOWN = 8  # columns of a table of each kind that are told


class LabelledFile(NamedTuple):
    """A file's name, its CSV row if any, and its labels."""

    name: str
    row: Mapping[str, str] | None
    labels: tuple[float, ...]


class Folder:
    """All files below ``images``; with ``labels``, files without a row there are not used.

    Paths are resolved: two paths to one file, through symbolic links or ``..``, are one input.

    Args:
        images: the folder, searched recursively, following symbolic links; hidden files are skipped.
        labels: CSV with a header. Its files and masks are relative to ``images`` or to the CSV's folder.
        boxes: CSV with the columns file, label, y, x, h, w (pixels; y, x is the upper left corner).
        columns: names of the CSV's columns for file, patient, study, split and mask; null = none.
        label_columns: columns that are labels, numbers or yes and no; null = every other column that holds only 0, 1,
            -1, yes, no or nothing.
        label_rules: more labels from categories: ``{pneumonia: {label: PNEUMONIA}}`` is 1 if the column ``label`` is
            PNEUMONIA, NaN if it is empty, else 0.
        class_columns: columns of several classes, such as a diagnosis or a grade: ``[stage]``, or, to give them an
            order, ``{stage: [early, late]}``; the label is the class's number.
        patient_pattern: a regular expression whose group is the patient, for the file's path below ``images``; files
            that do not match are rejected. Not with a patient column.
        attributes: any of sex, age, view, manufacturer: from the column of that name, else from the DICOM header.

    Without a patient column, patient and study come from the DICOM header; other images count as their own patients.
    With one, rows without a patient go to quarantine.

    Raises:
        UserError: a file, folder or column does not exist; columns are named, but no CSV; two rows of one file differ;
            a label is not a number; the pattern has no group, or there is a patient column, too.
    """

    empty = ""  # what the CSV's empty cells say
    parts: Iterable[Inspected] | None = None  # what others have inspected below ``images``, in the order of a walk
    boxes_in: Callable[[Path], Iterator[tuple[str, Any]]] = staticmethod(read_boxes)  # files of a CSV and their boxes

    def __init__(
        self,
        images: PathStr,
        labels: PathStr | None = None,
        boxes: PathStr | None = None,
        columns: Mapping[str, str | None] | None = None,
        label_columns: Sequence[str] | None = None,
        label_rules: Mapping[str, Mapping[str, str]] | None = None,
        class_columns: ClassSpec = None,
        patient_pattern: str | None = None,
        attributes: Sequence[str] = (),
    ):
        self.root = folder_at(images)
        self.links = LinkResolver(self.root)
        of_csv = {"label_columns": label_columns, "label_rules": label_rules, "class_columns": class_columns}
        of_csv |= {f"columns.{name}": (columns or {}).get(name) for name in ("study", "split", "mask")}
        if not labels and (named := [name for name, value in of_csv.items() if value]):
            raise ArgumentError("labels", labels, f"a table, of which {named[0]} names columns")
        self.csv = resolve_links(locate(labels, "recipe.labels")) if labels else None
        self.columns = {name: column for name, column in (columns or {}).items() if column} if labels else {}
        if unknown := self.columns.keys() - set(COLUMNS):
            raise ArgumentError("columns", unknown.pop(), f"keys of {', '.join(COLUMNS)}")
        self.pattern = PatientPattern(patient_pattern) if patient_pattern else None
        if self.pattern and (column := self.columns.get("patient")):
            raise ArgumentError(
                "patient_pattern", patient_pattern, f"null, as columns.patient={column} names the patients"
            )
        self.attributes, self.rules = attributes, label_rules or {}
        self.numeric, self.notes = tuple(label_columns or ()), list[str]()  # printed with the listing
        self.stored = PathIndex[int]()  # in a store: the existing files and their sizes
        if not is_local(self.root):
            self.stored.update((met.path, met.size or 0) for met in walked(self.root))
        self.listed, self.class_labels = PathIndex[LabelledFile](), ClassColumns(None, (), "")
        self.no_inputs = PathIndex[None]()  # masks and tables among the images
        if self.csv:
            self._index(self.csv, label_columns is None, class_columns)
        self.classes = self.class_labels.names
        self.label_names = (*self.numeric, *self.rules, *self.classes)
        self.boxes = PathIndex[list[Any]]()
        if boxes:
            self._index_boxes(resolve_links(locate(boxes, "recipe.boxes")))

    @classmethod
    def inspector(cls, arguments: Mapping[str, Any]) -> Inspector | None:
        """Return the function that inspects a file for ``parts``, by the constructor's ``arguments``; None if files
        cannot be inspected one by one."""
        return inspect_image

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """Listed files (missing ones are rejected on reading) and files without a row."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            yield from with_note(self._all(workers))

    def _all(self, workers: int) -> Iterator[SourceRecord]:
        for note in self.notes:
            print_line(note)
        unknown, met = (math.nan,) * len(self.label_names), PathIndex[None]()  # rows of the CSV
        for found in self._inspected(workers, inspect_image):
            if listed := self.listed.get(found.path) if self.csv else None:
                met[found.path] = None
            name = listed.name if listed else self._name(found.link or found.path, found.path)
            yield from self._records(found, listed or LabelledFile(name, None, unknown))
        rest = (Met(path, path, self.stored.get(path)) for path in self.listed if path not in met)
        for found in in_threads(inspect_image, rest, workers, "files"):
            yield from self._records(found, self.listed[found.path])

    def _inspected(self, workers: int, inspect: Inspector) -> Iterator[Inspected]:
        """Each file once, with a progress bar. Raises OSError."""
        elsewhere = PathIndex[None]()  # what links, or rows, lead to: what can be met twice

        def wanted(path: Path, file: Path, own: bool) -> bool:
            if not own and not file.is_relative_to(self.root):
                self.links.note(path, file)
            if own or file not in elsewhere:
                if not own:
                    elsewhere[file] = None
                return self._is_input(file)
            return False

        if self.parts is None:
            walk = walked(self.root) if is_local(self.root) else (Met(path, path, n) for path, n in self.stored.items())
            below: Iterator[Met] = (met for met in walk if wanted(met.path, met.file, met.path is met.file))
        else:
            yield from (found for found in self.parts if wanted(found.link or found.path, found.path, not found.link))
            below = iter(())
        outside = (met for met in self._outside() if wanted(met.path, met.file, False))
        yield from in_threads(inspect, chain(below, outside), workers, "files")

    def _outside(self) -> Iterator[Met]:
        """Files that are not below the root, and not each a row of the CSV."""
        return iter(())

    def _is_input(self, file: Path) -> bool:
        return file not in self.no_inputs

    def _records(self, found: Inspected, listed: LabelledFile) -> list[SourceRecord]:
        """The file's image, or each frame of multi-frame DICOM."""
        path = found.path
        boxes = tuple(self.boxes.get(path, ())) if self.boxes else ()
        record = SourceRecord(listed.name, path, labels=listed.labels, boxes=boxes)
        if found.aside:
            return [replace(record, rejected=found.aside) if listed.row else replace(record, aside=found.aside)]
        if found.rejected:
            reason = NOT_THERE if found.absent and listed.row is not None else found.rejected
            return [self._completed(replace(record, rejected=reason), listed.row, {})]
        record = self._completed(replace(record, size=found.size), listed.row, found.header)
        if "frames" not in found.header or record.rejected:
            return [record]
        if record.mask or record.boxes:
            return [replace(record, rejected="a mask or boxes for DICOM frames: does not say for which frame")]
        frames = range(int(found.header["frames"]))
        return [replace(record, name=f"{record.name}/{number}", image=DicomFrame(path, number)) for number in frames]

    def _completed(
        self, record: SourceRecord, row: Mapping[str, str] | None, header: Mapping[str, str]
    ) -> SourceRecord:
        """The record completed from its CSV row, if there is a CSV, and the DICOM header."""
        if row is None and not isinstance(record.image, SourceImage) and record.image.suffix.lower() in DOCUMENTS:
            return replace(record, aside="a document or table by its name")
        if row is None and record.name.lower().endswith(PACKED):
            return replace(record, aside="an archive by its name: unpack it to read the files in it")
        if self.csv and row is None:
            return replace(record, aside=f"not in {self.csv.name}")
        row = row or {}
        cells = {name: row[column].strip() or None for name, column in self.columns.items()}
        if "patient" in cells and not cells["patient"]:  # the header's patient may be an alias of one in the CSV
            return replace(record, rejected="no patient in the CSV")
        if record.rejected:
            return record
        if not cells.get("patient"):
            cells["patient"] = self._matched(record) if self.pattern else header.get("patient")
            if self.pattern and not cells["patient"]:
                return replace(record, rejected=UNMATCHED)
            cells["study"] = cells.get("study") or header.get("study")
        mask = cells.get("mask")
        attributes = {name: row.get(name) or header.get(name, "") for name in self.attributes}
        return replace(
            record,
            patient=cells["patient"],
            study=cells.get("study"),
            split=cells.get("split"),
            modality=header.get("modality"),
            mask=self.links.resolve(self._path(mask, self.csv)) if mask and self.csv else None,
            attributes={name: value for name, value in attributes.items() if value},
        )

    def _matched(self, record: SourceRecord) -> str | None:
        """The patient by ``recipe.patient_pattern``; of a series, by its first slice."""
        assert self.pattern is not None
        of_series = isinstance(record.image, SourceImage)
        first = record.image.paths[0] if isinstance(record.image, SourceImage) else record.image
        return self.pattern.patient(self._name(first, first) if of_series else record.name)

    def _labels(self, row: Mapping[str, str], where: str) -> tuple[float, ...]:
        plain = [number(row[column], f"{where}, {column}") for column in self.numeric]
        for rule in self.rules.values():
            cells = {column: row[column].strip() for column in rule}
            plain.append(float(cells == dict(rule)) if all(cells.values()) else math.nan)
        plain += [self.class_labels.number(column, row[column], f"{where}, {column}") for column in self.classes]
        return tuple(plain)

    def _index(self, path: Path, guess: bool, classes: ClassSpec) -> None:
        ruled = [column for rule in self.rules.values() for column in rule]
        named = [*self.columns.values(), *self.numeric, *ruled, *(classes or ())]
        if both := set(self.numeric) & set(classes or ()):
            raise ArgumentError("class_columns", min(both), "columns that label_columns does not have")
        advice = {
            column: f"; recipe.columns.{key}=COLUMN names it"
            + f", recipe.columns.{key}=null if there is none" * (key != "file")
            for key, column in self.columns.items()
        }
        keys = "recipe.columns, label_columns, label_rules or class_columns"
        table = partial(read_table, path, named, keys, advice, self.empty)
        if "file" not in self.columns:
            raise ArgumentError("columns.file", UNSHOWN, f"the column of {path} with the file names")
        self.no_inputs[path] = None
        header = {column.casefold(): column for row in islice(table(), 1) for column in row.cells}
        unused = {name: header[name] for name in COLUMNS if name not in self.columns and name in header}
        unused = {name: column for name, column in unused.items() if column not in named}
        for name, column in unused.items():
            self.notes.append(f"{path.name}: column {column} is not used; recipe.columns.{name}={column} uses it")
        self.class_labels = ClassColumns(classes, table(), path)
        self.classes = self.class_labels.names
        if guess:
            kept = {*HEADER} & {*header.values()} - {*named, *unused, *self.attributes}
            self._guess_labels(path.name, table, {*named, *HEADER, *unused.values()}, sorted(kept))
        lines, mask, graded, repeated = PathIndex[int](), self.columns.get("mask"), dict[str, float](), 0
        for line, row in table():
            path_in_table = self._path(row[self.columns["file"]], path)
            file = self.links.resolve(path_in_table)
            if file in lines and self.listed[file].row == row:
                repeated += 1
                continue
            if file in lines:
                twice = brief(f"name the same file {file.name} and differ: keep one")
                raise UserError(f"{path}: lines {lines[file]} and {line} {twice}")
            labels = self._labels(row, f"{path}, line {line}")
            check_lesions(row, self.attributes, f"{path}, line {line}")
            graded_cells = zip(self.numeric, labels, strict=False)  # those of rules and classes follow
            graded |= {name: value for name, value in graded_cells if not (math.isnan(value) or value in (0, 1, -1))}
            self.listed[file], lines[file] = LabelledFile(self._name(path_in_table, file), row, labels), line
            if mask and row[mask].strip():
                self.no_inputs[self.links.resolve(self._path(row[mask], path))] = None
        if graded and not guess:
            names = brief(",".join(graded))
            self.notes.append(
                f"{path.name}: {names} has other values than 0, 1 and -1: numbers for `probe` and `finetune "
                f"task=regression`. For grades or classes use recipe.class_columns=[{names}] instead of label_columns"
            )
        if repeated:
            self.notes.append(f"{path.name}: repeated rows, each counted once: {repeated}")
        if self.listed and not any(map(self._exists, self.listed)):
            raise self._no_file_exists(path)

    def _guess_labels(
        self, name: str, table: Callable[[], Iterator[TableRow]], taken: set[str], kept: Sequence[str]
    ) -> None:
        """Take all columns but ``taken`` that hold only 0, 1, -1, yes and no for labels; note why others are none."""
        flags, numbers, texts = flags_and_numbers(table(), taken)
        self.numeric = tuple(flags)
        none = "none of the columns: each has more than 0, 1, -1, yes and no; recipe.class_columns names those of "
        none += "several classes"
        if all(taken.issuperset(row.cells) for row in islice(table(), 1)):
            none = "none: the table has no further columns"
        self.notes.append(f"{name}: labels are {brief(', '.join([*flags, *self.rules, *self.classes])) or none}")
        for column in kept:
            self.notes.append(
                f"{name}: column {column} is not used; recipe.attributes=[{column}] keeps it, and "
                f"recipe.label_columns=[{column}] as a number to learn"
            )
        for column in numbers[:SHOWN]:
            self.notes.append(
                brief(f"{name}: {column} is no label, as it has other numbers than 0, 1 and -1")
                + ": recipe.class_columns takes a grade, label_columns a measure"
            )
        for column, line in [*texts.items()][:SHOWN]:
            self.notes.append(
                brief(f"{name}: {column} is no label, as line {line} has no number")
                + ": recipe.class_columns takes classes"
            )

    def _no_file_exists(self, table: Path) -> UserError:
        """None of the table's files exist: one of its names, where it was looked for, and what is there instead."""
        cell = next(iter(self.listed.values())).row[self.columns["file"]].strip()  # type: ignore[index]
        there = next(iter(files_below(self.root) if is_local(self.root) else self.stored), None)
        example = f"there is {self._name(there, there)}" if there else "that folder is empty"
        suffix = there.suffix if there else ""
        hint = ": set recipe.images to the folder that the names start from, or recipe.columns.file to their column"
        if suffix and self._exists(self.root / f"{cell}{suffix}"):
            hint = f": append {suffix} to the names in the table"
        return UserError(
            f"{table}: none of its {len(self.listed)} files exists. "
            + brief(f"'{cell}' was looked for in {self.root} and beside the table; {example}{hint}")
        )

    def _index_boxes(self, path: Path) -> None:
        self.no_inputs[path] = None
        for cell, box in self.boxes_in(path):
            file = self.links.resolve(self._path(cell, path))
            self.boxes[file] = [*self.boxes.get(file, ()), box]
        if not any(self._exists(file) or file.is_dir() for file in self.boxes):
            raise UserError(f"{path}: none of the files that it names is in {self.root}")

    def _path(self, cell: str, listed_in: Path) -> Path:
        inside = self.root / cell.strip()
        beside = listed_in.parent / cell.strip()
        return beside if not self._exists(inside) and self._exists(beside) else inside

    def _exists(self, path: Path) -> bool:
        """In a store, the listing of ``images`` answers this; asking would take a request per file."""
        if is_local(path) or not path.is_relative_to(self.root):
            return os.path.exists(path) if is_local(path) else path.exists()  # noqa: PTH110 (Path's raises for long names)
        return resolve_links(path) in self.stored

    def _name(self, path: Path, file: Path) -> str:
        """The file's name relative to ``images``, or that of the link to it if it is elsewhere."""
        path = file if file.is_relative_to(self.root) else path
        return Path(os.path.relpath(_plain(path), _plain(self.root))).as_posix()


def _plain(path: Path) -> str:
    return str(path) if is_local(path) else path.path  # type: ignore[attr-defined]
