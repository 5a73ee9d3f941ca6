"""Collect a source's identifying values: from DICOM headers, metadata of other images, file names, tables."""

import io
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from gzip import GzipFile
from itertools import islice
from pathlib import Path

import pydicom
from pydicom.charset import convert_encodings
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from dira_scale.archive.imaging.dicom.header import is_dicom
from dira_scale.base.errors import UserError
from dira_scale.base.machine.workers import parallel_map
from dira_scale.base.storage.store import is_local, locate
from dira_scale.base.storage.tables import read_table
from dira_scale.base.storage.walk import files_below, folder_at
from dira_scale.shard.curate.audit.search import Text
from dira_scale.shard.curate.audit.texts import JPEG, PNG, parts_of

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
# The lines of a header that can identify somebody: NRRD's content, data files and ``key:=value``; MetaImage's
# ``key = value``, but for keys whose values are numbers or keywords.
NRRD_LINE = rb"(?m)^([^:\n]+):=(.*)$|^(content|data ?file): *(.*)$"
META_LINE = (
    rb"(?m)^(?!Object|NDims|Binary|Compressed|TransformMatrix|Offset|Position|Origin|Orientation|CenterOfRotation"
    rb"|AnatomicalOrientation|Element(?!DataFile)|DimSize|HeaderSize|Modality)(\w+)\s*=\s*(.*)$"
)
COLUMN = re.compile(r"patient|subject|study|series|file|image|name|\bid\b|_id\b|uid|accession|date|birth", re.I)


def harvest(source: str, tables: Sequence[str], workers: int) -> Iterator[Text]:
    """All values of the folder ``source``, recursively, and of the tables' columns that name people or files.

    Raises UserError if one is missing; OSError for an unreadable file.
    """
    root = folder_at(source, "source")
    yield Text("folder name", str(root))
    for table in tables:
        path, columns = locate(table, "tables"), list[str]()
        for _, row in read_table(path, [], "tables"):
            columns = columns or [name for name in row if COLUMN.search(name)]
            if not columns:
                raise UserError(f"{path}: no column name refers to a patient, study or file ({', '.join(row)}): "
                                "rename one, or leave the table out of tables=…")  # fmt: skip
            for name in columns:
                cell = row[name].strip()
                yield Text(f"column {name}", cell)
                if "/" in cell or "." in cell:
                    yield from (value._replace(what=f"column {name}") for value in _names(Path(cell)))
    files = files_below(root)
    chunks = iter(lambda: list(islice(files, CHUNK)), [])
    for values in parallel_map(_of_files, ((root, chunk) for chunk in chunks), workers):
        yield from values


def _of_files(root: Path, paths: Sequence[Path]) -> list[Text]:
    """The distinct values of some files."""
    values: dict[Text, None] = {}
    for path in paths:
        below = Path(os.path.relpath(path, root)) if is_local(path) else path.relative_to(root)
        values |= dict.fromkeys(_names(below))
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's quote values
            if not is_dicom(file):
                values |= dict.fromkeys(texts_of(file.read(HEAD)))
                continue
            try:
                header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
                values |= dict.fromkeys(_of_dicom(header))
            except Exception:  # a damaged header can raise anything: fall back to its printable text
                file.seek(0)
                runs = re.findall(rb"[ -~]{8,64}", file.read(2**16))
                values |= dict.fromkeys(Text("damaged DICOM", run.decode()) for run in runs)
    return list(values)


def _names(below: Path) -> Iterator[Text]:
    yield from (Text("folder name", folder) for folder in below.parts[:-1])
    yield Text("file name", below.name)
    stem = re.sub(r"(\.(nii|tar))?\.[A-Za-z0-9]{1,5}$", "", below.name)
    yield Text("file name", stem)


def _of_dicom(header: Dataset) -> Iterator[Text]:
    encodings = tuple(dict.fromkeys(convert_encodings(header.get("SpecificCharacterSet", None) or "ISO_IR 6")))
    for part in (header, getattr(header, "file_meta", Dataset())):
        for element in part.iterall():
            keyword = keyword_for_tag(element.tag) or f"private ({element.tag.group:04x},{element.tag.element:04x})"
            if keyword in NOT_IDENTIFYING or element.value is None:
                continue
            value, texts = element.value, list[str]()
            if element.VR in TEXTS:
                texts = [str(part) for part in (value if isinstance(value, MultiValue | list) else [value])]
            elif element.VR == "UN" and isinstance(value, bytes):  # private: its printable parts
                texts = [run.decode().strip() for run in re.findall(rb"[ -~]{4,}", value[: 2**16])]
            yield from (Text(keyword, t, element.VR, encodings) for t in texts if not t.startswith(STANDARD))


def texts_of(head: bytes) -> Iterator[Text]:
    """The texts of an image or volume of the source; ``head`` is the file, or enough of it."""
    if head[:2] == b"\x1f\x8b":
        try:
            head = GzipFile(fileobj=io.BytesIO(head)).read1(HEAD)
        except (OSError, EOFError, zlib.error):
            return
    if head.startswith((PNG, JPEG)):
        yield from (text for what, content in parts_of(head) for text in _texts(what, content))
    elif head[:4] == b"NRRD":
        for groups in re.findall(NRRD_LINE, head.partition(b"\n\n")[0]):
            key, value = filter(None, groups)
            yield from _texts(f"NRRD {key.decode('latin-1')}", value)
    elif re.match(rb"(Comment|ObjectType|NDims)\s*=", head):
        header = re.match(rb"(?s).*?^ElementDataFile[^\n]*|", head, re.MULTILINE)
        for key, value in re.findall(META_LINE, header[0] if header else b""):
            yield from _texts(f"MetaImage {key.decode('latin-1')}", value)
    elif head[:4] in (b"II*\0", b"MM\0*"):
        yield from (Text("TIFF tag", text) for text in printable(head, least=6))
    elif size := _nifti_size(head):
        yield from (Text("NIfTI header", text) for text in printable(head[:size]))


def _nifti_size(head: bytes) -> int:
    """Bytes before the voxels: a NIfTI's header and extensions, which may hold a complete DICOM header. 0 if none."""
    for order in ("<", ">"):
        for size, at, kind in ((348, 108, "f"), (540, 168, "q")):
            if len(head) > size and struct.unpack_from(f"{order}i", head) == (size,):
                (offset,) = struct.unpack_from(f"{order}{kind}", head, at)
                return max(size, int(offset)) if math.isfinite(offset) else size
    return 0


def _texts(what: str, content: bytes) -> Iterator[Text]:
    """A block's text if it is all text, else its printable runs."""
    for part in content.split(b"\0"):
        try:
            text = part.decode()
        except UnicodeDecodeError:
            text = part.decode("latin-1")
        if text.strip() and sum(map(str.isprintable, text)) > 0.9 * len(text):
            yield Text(what, text)
        else:
            yield from (Text(what, run) for run in printable(part))


def printable(content: bytes, least: int = 4) -> list[str]:
    """Runs of printable ASCII in a binary block."""
    return [run.decode() for run in re.findall(rb"[\x20-\x7e]{%d,}" % least, content)]
