"""Collect a source's identifying values: from DICOM headers, metadata of other images, file names, tables."""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.charset import convert_encodings
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dira_scale.errors import UserError
from dira_scale.imaging.dicom import is_dicom
from dira_scale.machine.workers import parallel_map
from dira_scale.shard.curate.audit.texts import texts_of
from dira_scale.shard.curate.audit.values import Value
from dira_scale.storage.store import is_local, locate
from dira_scale.storage.tables import read_table
from dira_scale.storage.walk import files_below, folder_at

CHUNK, HEAD = 64, 2**22  # files per task; bytes read of a file that is not DICOM
TEXTS = {"PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR", "DA", "DT", "TM", "UI", "AE"}  # VRs that can identify somebody
# Elements that PS3.15's basic profile keeps, so source and dataset may share them: device class, standard terms.
NOT_IDENTIFYING = {
    "Manufacturer", "ManufacturerModelName",  # the profile removes serial number, station and names
    "CodeValue", "CodeMeaning", "CodingSchemeDesignator", "CodingSchemeVersion", "CodingSchemeName",  # code lists
    "RescaleType", "WindowCenterWidthExplanation", "LUTExplanation",  # units and names of grey scales
    "ImplementationVersionName",  # the writing library
}  # fmt: skip
STANDARD = "1.2.840.10008."  # UIDs of the standard itself: SOP classes, transfer syntaxes
COLUMN = re.compile(r"patient|subject|study|series|file|image|name|\bid\b|_id\b|uid|accession|date|birth", re.I)


def harvest(source: str, tables: Sequence[str], workers: int) -> Iterator[Value]:
    """All values of the folder ``source``, recursively, and of the tables' columns that name people or files.

    Raises UserError if one is missing; OSError for an unreadable file.
    """
    root = folder_at(source, "source")
    yield Value("folder name", str(root))
    for table in tables:
        yield from _cells(locate(table, "tables"))
    for values in parallel_map(_of_files, ((root, chunk) for chunk in _chunks(files_below(root))), workers):
        yield from values


def _chunks(paths: Iterator[Path]) -> Iterator[list[Path]]:
    chunk = []
    for path in paths:
        chunk.append(path)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    yield chunk


def _of_files(root: Path, paths: Sequence[Path]) -> list[Value]:
    """The distinct values of some files."""
    values: dict[Value, None] = {}
    for path in paths:
        below = Path(os.path.relpath(path, root)) if is_local(path) else path.relative_to(root)
        values |= dict.fromkeys(_names(below))
        values |= dict.fromkeys(_of_file(path))
    return list(values)


def _names(below: Path) -> Iterator[Value]:
    yield from (Value("folder name", folder) for folder in below.parts[:-1])
    yield Value("file name", below.name)
    stem = re.sub(r"(\.(nii|tar))?\.[A-Za-z0-9]{1,5}$", "", below.name)
    yield Value("file name", stem)


def _of_file(path: Path) -> list[Value]:
    with path.open("rb") as file:
        if not is_dicom(file):
            head = file.read(HEAD)
            return [Value(text.what, text.text) for text in texts_of(head)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            try:
                return list(_of_dicom(pydicom.dcmread(file, stop_before_pixels=True, force=True)))
            except Exception:  # a damaged header can raise anything: fall back to its printable text
                file.seek(0)
                return [Value("damaged DICOM", run.decode()) for run in re.findall(rb"[ -~]{8,64}", file.read(2**16))]


def _of_dicom(header: Dataset) -> Iterator[Value]:
    encodings = tuple(dict.fromkeys(convert_encodings(header.get("SpecificCharacterSet", None) or "ISO_IR 6")))
    for part in (header, getattr(header, "file_meta", Dataset())):
        for element in part.iterall():
            keyword = keyword_for_tag(element.tag) or f"private ({element.tag.group:04x},{element.tag.element:04x})"
            if keyword in NOT_IDENTIFYING or element.value is None:
                continue
            for text in _values(element.value, element.VR):
                if not text.startswith(STANDARD):
                    yield Value(keyword, text, element.VR, encodings)


def _values(value: Any, vr: str) -> list[str]:
    """The texts of an element; the printable parts of an unknown one (UN, common for private elements)."""
    if vr in TEXTS:
        return [str(part) for part in (value if isinstance(value, MultiValue | list) else [value])]
    if vr == "UN" and isinstance(value, bytes):
        return [run.decode().strip() for run in re.findall(rb"[ -~]{4,}", value[: 2**16])]
    return []


def _cells(path: Path) -> Iterator[Value]:
    columns: list[str] | None = None
    for _, row in read_table(path, [], "tables"):
        if columns is None:
            columns = [name for name in row if COLUMN.search(name)]
            if not columns:
                raise UserError(f"{path}: no column name refers to a patient, study or file ({', '.join(row)}): "
                                "rename one, or leave the table out of tables=…")  # fmt: skip
        for name in columns:
            cell = row[name].strip()
            yield Value(f"column {name}", cell)
            if "/" in cell or "." in cell:
                yield from (value._replace(kind=f"column {name}") for value in _names(Path(cell)))
