"""Pictures named by tables, or in a folder for each class: skin, endoscopy, fundus and pathology collections."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.label_columns import ClassColumns, number
from dira_scale.archive.sources.published import ListedFiles, files_ending, listed_in
from dira_scale.archive.sources.split_lists import UNMATCHED, PatientPattern
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.storage.tables import read_table, table_error
from dira_scale.base.storage.walk import folder_at

ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
CLASS = "class"  # the label of class folders


class Pictures(ListedFiles):
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
        self.root, self.patient = folder_at(images), patient
        self.numeric = tuple(label_columns)
        self.pattern = PatientPattern(patient_pattern) if patient_pattern else None
        self.attributes, self.tables = attributes or {}, [listed_in(self.root, *names) for names in tables]
        self.lines: dict[str, dict[str, str]] = {}  # of all tables, joined, by the picture's name
        for table in self.tables:
            met = set[str]()
            for row in read_table(table, [name_column]):
                name = _stem(row.cells[name_column])
                if not name or name in met:
                    raise table_error(table, f"two lines of {name}" if name else f"no {name_column}", row)
                met.add(name)
                if table == self.tables[0] or name in self.lines:
                    self.lines.setdefault(name, {}).update(row.cells)
        if tables:
            columns = {*self.numeric, *([patient] if patient else [])}
            if absent := columns - {key for cells in self.lines.values() for key in cells}:
                raise ArgumentError("images", str(self.root), f"tables with a column {min(absent)}")
            table = self.tables[0]
            self.classes_of = ClassColumns(class_columns, read_table(table, list(class_columns or ())), table)
        else:
            paths = files_ending(self.root, *ENDINGS)
            folders = sorted({path.parent.name for path in paths if path.parent != self.root})
            if len(folders) < 2:
                raise ArgumentError(
                    "images", images, f"a folder with one for each class, not pictures in {len(folders)}; or tables"
                )
            self.classes_of = ClassColumns(class_columns or {CLASS: folders}, (), self.root)
        self.classes = self.classes_of.names
        self.label_names = (*self.numeric, *self.classes)

    def listed(self) -> Iterator[SourceRecord]:
        """Yield all pictures; reject those without a line, and lines without a picture."""
        there = set[str]()
        for path in files_ending(self.root, *ENDINGS):
            inside = path.relative_to(self.root).as_posix()
            if not self.tables and path.parent == self.root:
                yield SourceRecord(inside, path, rejected="in no class's folder")
                continue
            if not self.tables:
                cells, name = dict.fromkeys(self.classes, path.parent.name), inside
            elif (name := _stem(path.name)) in self.lines:
                cells = self.lines[name]
                there.add(name)
            else:
                yield SourceRecord(inside, path, rejected="no line in the tables")
                continue
            patient = cells.get(self.patient, "") or None if self.patient else None
            if self.pattern and not (patient := self.pattern.patient(inside)):
                yield SourceRecord(name, path, rejected=UNMATCHED)
                continue
            labels = [number(cells.get(column, ""), f"{name}, {column}") for column in self.numeric]
            labels += [self.classes_of.number(column, cells.get(column, ""), name) for column in self.classes]
            attributes = {kept: cells[column] for kept, column in self.attributes.items() if cells.get(column)}
            yield SourceRecord(name, path, patient, labels=tuple(labels), attributes=attributes)
        for name in self.lines.keys() - there:
            yield SourceRecord(name, self.root / name, rejected="listed, but missing")


def _stem(name: str) -> str:
    """A picture's name without an ending that pictures have."""
    plain = PurePosixPath(name)
    return plain.stem if plain.suffix.lower() in ENDINGS else plain.name
