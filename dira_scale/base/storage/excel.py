"""Excel tables (``.xlsx``) as the CSV that Excel would save, but with points in numbers and ISO dates; gzip as CSV."""

import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, time
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import is_local, open_file

SUFFIX = ".xlsx"
OTHERS = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers")
LARGEST = 2**28  # bytes of XML in a file: more is not a table of labels, or a decompression bomb
ROWS, CELLS = 2**20, 2**24  # of a sheet; the rows are Excel's own limit
ADVICE = "save the table as CSV (UTF-8)"


@contextmanager
def open_table(path: Path) -> Iterator[BinaryIO]:
    """The text of a table: a CSV file as it is, or unpacked from ``.gz``; of an Excel file its one sheet.

    Raises UserError for Excel with several sheets that have cells, for what is not an Excel file, and without openpyxl;
    for gzip that is damaged.
    """
    if path.suffix.lower() in OTHERS:
        raise UserError(f"{path}: {path.suffix} cannot be read: {ADVICE}, or as {SUFFIX}")
    if path.suffix.lower() == SUFFIX:
        try:
            import openpyxl
        except ModuleNotFoundError as error:
            needed = "Excel tables need openpyxl: pip install 'dira_scale[excel]'"
            raise UserError(f"{path}: {needed}, or {ADVICE}") from error
        yield io.BytesIO(_as_csv(path, path.stat().st_mtime_ns if is_local(path) else 0, openpyxl))
    elif path.suffix.lower() == ".gz":
        try:
            with open_file(path) as file, gzip.open(file) as text:
                yield cast(BinaryIO, text)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}: not a whole gzip file ({error}): download it again") from error
    else:
        with open_file(path) as file:
            yield file


@lru_cache(maxsize=2)  # a table is read several times
def _as_csv(path: Path, changed: int, openpyxl: Any) -> bytes:
    with open_file(path) as file:
        content = io.BytesIO(file.read())
    try:
        with zipfile.ZipFile(content) as archive:
            if sum(part.file_size for part in archive.infolist()) > LARGEST:
                raise UserError(f"{path}: more than {LARGEST >> 20} MB unpacked: {ADVICE}")
        book = openpyxl.load_workbook(content, read_only=True, data_only=True)
        sheets = {sheet.title: _read(path, sheet) for sheet in book.worksheets}
        if any(blanks for _, blanks in sheets.values()):
            formulas = openpyxl.load_workbook(content, read_only=True)
            for sheet in book.worksheets:
                _refuse_uncalculated(path, sheet, formulas[sheet.title])
    except (UserError, MemoryError):
        raise
    except Exception as error:  # openpyxl raises whatever a damaged file leads to
        raise UserError(f"{path}: not an Excel table, or damaged ({type(error).__name__}): {ADVICE}") from error
    filled = [title for title, (rows, _) in sheets.items() if any(rows)]
    if len(filled) > 1:
        raise UserError(f"{path} has {len(filled)} sheets with cells ({', '.join(filled)}): keep one, or save the one "
                        "that is meant as CSV (UTF-8)")  # fmt: skip
    text = io.StringIO()
    csv.writer(text).writerows(sheets[filled[0]][0] if filled else [])
    return text.getvalue().encode()


def _read(path: Path, sheet: Any) -> tuple[list[list[str]], bool]:
    """Return the rows as text, without the empty cells at the end of each; and whether a stored cell has no value."""
    sheet.reset_dimensions()  # else every row is filled up to the last column that the file declares
    rows, blanks, cells = list[list[str]](), False, 0
    for number, row in enumerate(sheet.iter_rows(), 1):
        cells += len(row)
        if number > ROWS or cells > CELLS:
            raise UserError(
                f"{path}: sheet {sheet.title} has {cells} cells and more up to row {number}: at most {CELLS} "
                f"in {ROWS} rows are read; delete what lies outside the table, or {ADVICE}"
            )
        texts: list[str] = []
        rows.append(texts)
        for column, cell in enumerate(row):
            if cell.value is not None:
                texts += [""] * (column - len(texts)) + [_text(cell)]
            elif not blanks and hasattr(cell, "coordinate"):  # not one that openpyxl has filled in
                blanks = True
        while texts and not texts[-1]:
            texts.pop()
    return rows, blanks


def _refuse_uncalculated(path: Path, values: Any, formulas: Any) -> None:
    """Raises UserError for a formula of which the file has no result, as programs other than Excel write it."""
    formulas.reset_dimensions()
    for results, row in zip(values.iter_rows(), formulas.iter_rows(), strict=True):
        for result, cell in zip(results, row, strict=True):
            if cell.data_type == "f" and result.value is None and result.data_type == "n":  # an empty text is "str"
                raise UserError(f"{path}: sheet {values.title}, cell {cell.coordinate}: a formula without its result: "
                                "open the file in Excel and save it, or save it as CSV (UTF-8)")  # fmt: skip


def _text(cell: Any) -> str:
    value = cell.value
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and (form := cell.number_format).strip("0") == "":  # 000000, of numbers of patients
        return f"{value:0{len(form) + (value < 0)}d}"
    return " ".join(str(value).splitlines())  # a line of the text is a row of the sheet
