"""Untrusted CSV files, read a row at a time. Errors name file and line."""

import csv
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from dira_scale.base.errors import UserError, nearest, without_commands
from dira_scale.base.storage.excel import SUFFIX, open_table
from dira_scale.base.storage.text import LONGEST, brief, lines_of

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # with which a spreadsheet begins to compute
DELIMITERS = ",;\t"  # Excel writes semicolons where the decimal sign is a comma


class TableRow(NamedTuple):
    """A row of a CSV file, keyed by column; missing cells are empty."""

    line: int
    cells: dict[str, str]


def read_table(
    path: Path,
    columns: Sequence[str],
    named_by: str = "",
    advice: Mapping[str, str] = MappingProxyType({}),
    empty: str = "",
) -> Iterator[TableRow]:
    """The rows of a UTF-8 CSV with a header, one at a time; cells are separated as the header's.

    Header and cells are stripped, empty lines skipped; cells that say ``empty`` are. A column is found in any case, and
    is then called as in ``columns``.

    Raises UserError if the file is absent or not UTF-8, lacks one of ``columns`` (``named_by`` says who needs them,
    ``advice`` what to do about a column), or has a line with more cells than the header.
    """
    if not path.is_file():
        raise UserError(f"{path} is a folder: name the table in it" if path.is_dir() else f"{path}: no such file")
    delimiter = ","  # of Excel, whatever the header's cells contain
    if path.suffix.lower() != SUFFIX:
        with open_table(path) as file:
            delimiter = max(DELIMITERS, key=file.readline(LONGEST).decode(errors="replace").count)
    with lines_of(path) as lines:
        reader, first_line = csv.reader(lines, delimiter=delimiter), 1  # of the row being read
        try:
            present = [cell.strip() for cell in next(reader, [])]
            first_line = reader.line_num + 1
            if twice := [column for column, count in Counter(filter(None, present)).items() if count > 1]:
                raise UserError(f"{path} has " + brief(f"two columns '{twice[0]}': rename one"))
            absent = []
            for column in dict.fromkeys(columns):
                wanted = column.strip().casefold()  # or the only name that differs in case alone
                alike = [n for n, name in enumerate(present) if name.casefold() == wanted and name not in columns]
                if column not in present and len(alike) == 1:
                    present[alike[0]] = column
                elif column not in present:
                    absent.append(column)
            if absent:
                lacks = f"no column {' or '.join(f'{column!r}' for column in absent)}"
                lacks += f" ({named_by})" if named_by else ""
                hint = nearest(absent[0], present) if len(absent) == 1 else ""
                hint = hint or f"; it has {', '.join(present) or 'no header'}"
                raise UserError(f"{path} has " + brief(lacks + hint) + "".join(advice.get(name, "") for name in absent))
            for cells in reader:
                lines.next_row()
                first_line = reader.line_num + 1
                cells = ["" if cell.strip() == empty else as_written(cell.strip()) for cell in cells]
                if any(cells[len(present) :]):
                    raise UserError(f"{path}, line {reader.line_num}: more cells than the header has")
                if any(cells):
                    cells += [""] * (len(present) - len(cells))
                    yield TableRow(reader.line_num, dict(zip(present, cells, strict=False)))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {_undecodable(path)}: not UTF-8; save the table as UTF-8 (from Latin-1: "
                            "iconv -f LATIN1 -t UTF-8)") from error  # fmt: skip
        except csv.Error as error:
            raise UserError(f"{path}, line {first_line}: {error}") from error


def harmless(row: Iterable[Any]) -> list[Any]:
    """The cells of a table to write: foreign text that a spreadsheet would compute is quoted, as is usual, by ``'``;
    what would command a terminal is escaped."""
    return [
        without_commands(f"'{cell}" if _is_formula(cell) else cell) if isinstance(cell, str) else cell for cell in row
    ]


def as_written(cell: str) -> str:
    """A cell before :func:`harmless`."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(cell: str) -> bool:
    if not cell.startswith(FORMULA):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def _undecodable(path: Path) -> int:
    """The first line that is not UTF-8. The reader cannot tell: it decodes ahead of the current line."""
    with open_table(path) as file:
        for line, content in enumerate(iter(lambda: file.readline(LONGEST), b""), 1):
            try:
                content.decode()
            except UnicodeDecodeError:
                return line
    return 1


def table_error(path: Path, what: str, row: TableRow | None = None) -> UserError:
    """A one-line error about a table, of bounded length whatever its cells contain."""
    where = f"{path}, line {row.line}" if row else f"{path}"
    return UserError(f"{where}: {brief(what)}")


def read_names(path: Path) -> Iterator[str]:
    """The names in a list, one per line. Raises UserError if it is not UTF-8 text."""
    try:
        with lines_of(path) as lines:
            for line in lines:
                lines.next_row()
                if name := line.strip():
                    yield name
    except (UnicodeDecodeError, csv.Error) as error:
        raise table_error(path, f"not a list of UTF-8 text ({error})") from error


def cell_number(path: Path, row: TableRow, column: str) -> float:
    """The finite number in a cell. Raises UserError naming the line."""
    try:
        value = float(row.cells[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise table_error(path, f"'{row.cells[column]}' is not a number", row)
    return value
