"""Tables that people make: CSV files of labels and of boxes, read strictly."""

import csv
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from dira_scale.errors import UserError, nearest
from dira_scale.imaging.boxes import Box
from dira_scale.ingest.sources.text import LONGEST, brief, lines_of
from dira_scale.places.store import opened


class Row(NamedTuple):
    """A line of a CSV file, by the names of its columns; cells that the line lacks are empty."""

    line: int
    cells: dict[str, str]


def read_table(path: Path, columns: Sequence[str], named_by: str) -> Iterator[Row]:
    """The rows of a UTF-8 CSV with a header, one at a time.

    Raises UserError when the file is absent or in another encoding, lacks one of ``columns`` (``named_by`` says who
    wants them), or has a line of more cells than the header.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with lines_of(path) as lines:
        reader, begins = csv.reader(lines), 1  # the row that is read
        try:
            present = next(reader, [])
            begins = reader.line_num + 1
            if twice := [column for column, count in Counter(filter(str.strip, present)).items() if count > 1]:
                raise UserError(f"{path} has " + brief(f"two columns '{twice[0]}': rename one"))
            for column in columns:
                if column not in present:
                    known = nearest(column, present) or f"; it has {', '.join(present)}"
                    raise UserError(f"{path} has " + brief(f"no column '{column}' ({named_by}){known}"))
            for cells in reader:
                lines.next_row()
                begins = reader.line_num + 1
                if any(cell.strip() for cell in cells[len(present) :]):
                    raise UserError(f"{path}, line {reader.line_num}: more cells than the header has")
                if cells:
                    cells += [""] * (len(present) - len(cells))
                    yield Row(reader.line_num, dict(zip(present, cells, strict=False)))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {_undecodable(path)}: not UTF-8; save the table as UTF-8 (of Latin-1: "
                            "iconv -f LATIN1 -t UTF-8)") from error  # fmt: skip
        except csv.Error as error:
            raise UserError(f"{path}, line {begins}: {error}") from error


def _undecodable(path: Path) -> int:
    """The first line that is not UTF-8: text is decoded ahead of the line that is read."""
    with opened(path) as file:
        for line, content in enumerate(iter(lambda: file.readline(LONGEST), b""), 1):
            try:
                content.decode()
            except UnicodeDecodeError:
                return line
    return 1


def number(cell: str, where: str) -> float:
    """A cell's finite number, NaN for an empty one. Raises UserError naming ``where`` it stands."""
    value = _number(cell)
    if value is None:
        what = brief(f"'{cell}' is not a number; for categories use recipe.label_rules")
        raise UserError(f"{where}: {what}")
    return value


def flags_and_numbers(rows: Iterable[Row], taken: Collection[str]) -> tuple[list[str], list[str]]:
    """The columns but ``taken`` that hold only 0, 1 and -1, or nothing; and those that hold other numbers, too."""
    kinds: dict[str, set[str]] = {}  # of the columns that are all numbers so far
    for number, row in enumerate(rows):
        if number == 0:
            kinds = {column: set() for column in row.cells if column not in taken}
        for column in list(kinds):
            cell = row.cells[column].strip()
            value = _number(cell)
            if value is None:
                del kinds[column]
            elif cell:
                kinds[column].add("flag" if value in (0, 1, -1) or value != value else "number")
    flags = [column for column, kind in kinds.items() if kind == {"flag"}]
    return flags, [column for column, kind in kinds.items() if "number" in kind]


def read_boxes(path: Path) -> Iterator[tuple[str, Box]]:
    """Each line's file and box. Raises UserError when a side is no number, negative or empty."""
    for row in read_table(path, ["file", "label", *"yxhw"], "a file of boxes"):
        where = f"{path}, line {row.line}"
        box = Box(row.cells["label"], *(number(row.cells[side], f"{where}, {side}") for side in "yxhw"))
        if not (box.y >= 0 and box.x >= 0 and box.h > 0 and box.w > 0):
            raise UserError(f"{where}: a box needs y and x of at least 0, h and w above 0, all in pixels")
        yield row.cells["file"], box


def _number(cell: str) -> float | None:
    """NaN for an empty cell, None for what is no finite number."""
    try:
        value = float(cell.strip() or "nan")
    except ValueError:
        return None
    return None if math.isinf(value) else value
