"""Excel tables (``.xlsx``) as the CSV that Excel would save, but with points in numbers and ISO dates."""

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, time
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from dira_scale.errors import UserError
from dira_scale.places.store import is_local, open_file

SUFFIX = ".xlsx"
OTHERS = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
LARGEST = 2**28  # bytes of XML in a file: more is no table of labels, or a decompression bomb
ADVICE = "save the table as CSV (UTF-8)"


@contextmanager
def open_table(path: Path) -> Iterator[BinaryIO]:
    """The text of a table: a CSV file as it is, of an Excel file its one sheet.

    Raises UserError for Excel with several sheets that have cells, for what is no Excel file, and without openpyxl.
    """
    if path.suffix.lower() in OTHERS:
        raise UserError(f"{path}: {path.suffix} cannot be read: {ADVICE}, or as {SUFFIX}")
    if path.suffix.lower() == SUFFIX:
        openpyxl = _openpyxl(path)
        yield io.BytesIO(_as_csv(path, path.stat().st_mtime_ns if is_local(path) else 0, openpyxl))
    else:
        with open_file(path) as file:
            yield file


def _openpyxl(path: Path) -> Any:
    try:
        import openpyxl
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: Excel tables need openpyxl: pip install 'dira_scale[excel]', or {ADVICE}") from error
    return openpyxl


@lru_cache(maxsize=2)  # a table is read several times
def _as_csv(path: Path, changed: int, openpyxl: Any) -> bytes:
    with open_file(path) as file:
        content = io.BytesIO(file.read())
    try:
        with zipfile.ZipFile(content) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST:
                raise UserError(f"{path}: more than {LARGEST >> 20} MB unpacked: {ADVICE}")
        book = openpyxl.load_workbook(content, read_only=True, data_only=True)
        sheets = {sheet.title: _rows(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
    except (UserError, MemoryError):
        raise
    except Exception as error:  # openpyxl raises whatever a damaged file leads to
        raise UserError(f"{path}: no Excel table, or damaged ({type(error).__name__}): {ADVICE}") from error
    filled = [title for title, rows in sheets.items() if any(map(any, rows))]
    if len(filled) > 1:
        raise UserError(f"{path} has {len(filled)} sheets with cells ({', '.join(filled)}): keep one, or save the one "
                        "that is meant as CSV (UTF-8)")  # fmt: skip
    text = io.StringIO()
    csv.writer(text).writerows(sheets[filled[0]] if filled else [])
    return text.getvalue().encode()


def _rows(rows: Iterable[tuple[Any, ...]]) -> list[list[str]]:
    """As text, without the empty cells at the end of each row; as many lines as the sheet has."""
    found = []
    for row in rows:
        cells = [_text(value) for value in row]
        while cells and not cells[-1]:
            cells.pop()
        found.append(cells)
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return " ".join(str(value).splitlines())  # a line of the text is a row of the sheet
