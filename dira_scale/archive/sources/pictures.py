"""Pictures named by tables, or in a folder for each class: skin, endoscopy, fundus and pathology collections."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.label_columns import Classes, number
from dira_scale.archive.sources.published import files_ending, in_threads, listed_in, reject_repeated, with_size
from dira_scale.archive.sources.split_lists import UNMATCHED, PatientPattern
from dira_scale.arguments import ArgumentError
from dira_scale.config.schema import PathStr
from dira_scale.storage.tables import read_table, table_error
from dira_scale.storage.walk import folder_at

ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
CLASS = "class"  # the label of class folders


class Pictures:
    """JPEG, PNG and TIFF files at any depth of ``images``. With ``tables`` these name them, with or without an ending
    and without folders; without, the folder that holds a picture is its class.

    Args:
        images: the folder, with the tables.
        tables: CSV files, each by the names that releases give it, joined by ``name_column``; each picture has a line
            in the first.
        name_column: with the picture's name.
        patient: column of what must not be in two splits: the patient, or the lesion; null: as ``patient_pattern``.
        patient_pattern: a regular expression whose group is the patient, for the path below ``images``; null: each
            picture counts as a patient of its own.
        label_columns: columns of 0 and 1.
        class_columns: columns of several classes, as in ``Folder``; of class folders ``{class: [names]}`` gives an
            order, else they are sorted.
        attributes: columns of sex or age by these names: ``{age: age_approx}``.

    Raises:
        UserError: a table, a column or a class is missing; two lines of one picture; no class folders.
    """

    def __init__(
        self,
        images: PathStr,
        tables: Sequence[Sequence[str]] = (),
        name_column: str = "image",
        patient: str | None = None,
        patient_pattern: str | None = None,
        label_columns: Sequence[str] = (),
        class_columns: Mapping[str, Sequence[object] | None] | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        self.root, self.name, self.patient = folder_at(images), name_column, patient
        self.numeric = tuple(label_columns)
        self.pattern = PatientPattern(patient_pattern) if patient_pattern else None
        self.attributes, self.tables = attributes or {}, [listed_in(self.root, *names) for names in tables]
        self.lines: dict[str, dict[str, str]] = {}
        for place, table in enumerate(self.tables):
            self._join(table, first=place == 0)
        if tables:
            table = self.tables[0]
            self.classes_of = Classes(class_columns, read_table(table, list(class_columns or ())), table)
        else:
            found = sorted({path.parent.name for path in files_ending(self.root, *ENDINGS) if path.parent != self.root})
            if len(found) < 2:
                raise ArgumentError(
                    "images", images, f"a folder with one for each class, not pictures in {len(found)}; or tables"
                )
            self.classes_of = Classes(class_columns or {CLASS: found}, (), self.root)
        self.classes = self.classes_of.names
        self.label_names = (*self.numeric, *self.classes)

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """All pictures; those without a line are rejected, and lines without a picture."""
        seen = set[str]()
        yield from reject_repeated(in_threads(partial(self._record, seen=seen), self._files(), workers), self.root)
        for name in self.lines.keys() - seen:
            yield SourceRecord(name, self.root / name, rejected="listed, but missing")

    def _files(self) -> Iterator[Path]:
        return files_ending(self.root, *ENDINGS)

    def _record(self, path: Path, seen: set[str]) -> SourceRecord:
        inside = path.relative_to(self.root).as_posix()
        if not self.tables and path.parent == self.root:
            return SourceRecord(inside, path, rejected="in no class's folder")
        if not self.tables:
            cells, name = dict.fromkeys(self.classes, path.parent.name), inside
        elif (name := _stem(path.name)) in self.lines:
            cells = self.lines[name]
            seen.add(name)
        else:
            return SourceRecord(inside, path, rejected="no line in the tables")
        patient = cells.get(self.patient, "") or None if self.patient else None
        if self.pattern and not (patient := self.pattern.patient(inside)):
            return SourceRecord(name, path, rejected=UNMATCHED)
        labels = [number(cells.get(column, ""), f"{name}, {column}") for column in self.numeric]
        labels += [self.classes_of.number(column, cells.get(column, ""), name) for column in self.classes]
        attributes = {kept: cells[column] for kept, column in self.attributes.items() if cells.get(column)}
        return with_size(SourceRecord(name, path, patient, labels=tuple(labels), attributes=attributes))

    def _join(self, table: Path, first: bool) -> None:
        met = set[str]()
        for row in read_table(table, [self.name]):
            name = _stem(row.cells[self.name])
            if not name or name in met:
                raise table_error(table, f"two lines of {name}" if name else f"no {self.name}", row)
            met.add(name)
            if first or name in self.lines:
                self.lines.setdefault(name, {}).update(row.cells)
        columns = {*self.numeric, *([self.patient] if self.patient else [])}
        if table == self.tables[-1] and (absent := columns - {key for cells in self.lines.values() for key in cells}):
            raise ArgumentError("images", str(self.root), f"tables with a column {min(absent)}")


def _stem(name: str) -> str:
    """A picture's name without an ending that pictures have."""
    plain = PurePosixPath(name)
    return plain.stem if plain.suffix.lower() in ENDINGS else plain.name
