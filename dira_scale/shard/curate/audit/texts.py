"""The text in a file beside its pixels: in the source's images, and in the tables and JSON of a dataset."""

import contextlib
import io
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from gzip import GzipFile
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet as pq

INFLATED = 2**20  # bytes of a compressed part that are read
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PIXELS = ("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "cHRM", "sRGB", "sBIT", "pHYs")  # PNG chunks without text
PLAIN = (b"JFIF\0", b"Adobe\0")  # JPEG segments without text
GEOMETRY = {  # MetaImage keys whose values are numbers or keywords
    "ObjectType", "ObjectSubType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData",
    "CompressedDataSize", "TransformMatrix", "Offset", "Position", "Origin", "Orientation", "CenterOfRotation",
    "AnatomicalOrientation", "ElementSpacing", "ElementSize", "DimSize", "ElementType", "ElementByteOrderMSB",
    "ElementMin", "ElementMax", "ElementNumberOfChannels", "HeaderSize", "Modality",
}  # fmt: skip


class Part(NamedTuple):
    """A part of a file beside its pixels: ``tEXt chunk``, ``column reason`` …, and its content."""

    what: str
    content: bytes


class Text(NamedTuple):
    """A text, and the part of the file it is from."""

    what: str
    text: str


def parts_of(content: bytes) -> Iterator[Part]:
    """What a PNG, JPEG or blosc2 file holds beside its pixels: chunks, segments, layers, bytes after the image."""
    if content.startswith(PNG):
        yield from _chunks(content)
    elif content.startswith(JPEG):
        yield from _segments(content)
    elif content[2:10] == b"b2frame\0":
        yield from _layers(content)


def _chunks(content: bytes) -> Iterator[Part]:
    position, kind = len(PNG), ""
    while position + 8 <= len(content) and kind != "IEND":
        length = int.from_bytes(content[position : position + 4])
        kind = content[position + 4 : position + 8].decode("latin-1")
        body = content[position + 8 : position + 8 + length]
        position += 12 + length
        if kind not in PIXELS:
            yield Part(f"{kind} chunk", body)
    if content[position:]:
        yield Part("bytes after the PNG", content[position:])


def _segments(content: bytes) -> Iterator[Part]:
    """APPn and COM segments up to the scan; bytes after the last end of image."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != 0xDA:
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4])
        body = content[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xFE or (0xE0 <= marker <= 0xEF and not body.startswith(PLAIN)):
            yield Part("COM segment" if marker == 0xFE else f"APP{marker - 0xE0} segment", body)
    if after := content[content.rfind(b"\xff\xd9") + 2 :]:
        yield Part("bytes after the JPEG", after)


def _layers(content: bytes) -> Iterator[Part]:
    import blosc2

    try:
        array = blosc2.ndarray_from_cframe(content)
        layers = {name: array.schunk.vlmeta[name] for name in array.schunk.vlmeta}
    except (ValueError, RuntimeError):
        return  # damaged: its raw bytes are still searched
    yield from (Part("blosc2 layer", f"{name} {layer}".encode()) for name, layer in layers.items())


def texts_of(head: bytes) -> Iterator[Text]:
    """The texts of an image or volume of the source; ``head`` is the file, or enough of it."""
    if head[:2] == b"\x1f\x8b":
        try:
            head = GzipFile(fileobj=io.BytesIO(head)).read1(INFLATED)
        except (OSError, EOFError, zlib.error):
            return
    if head.startswith((PNG, JPEG)):
        yield from (text for what, content in parts_of(head) for text in _texts(what, _inflated(what, content)))
    elif re.match(rb"(Comment|ObjectType|NDims)\s*=", head) or head[:4] == b"NRRD":
        yield from _header_lines(head)
    elif head[:4] in (b"II*\0", b"MM\0*"):
        yield from (Text("TIFF tag", text) for text in printable(head[:INFLATED], least=6))
    elif size := _nifti_size(head):
        yield from (Text("NIfTI header", text) for text in printable(head[:size]))


def _inflated(what: str, body: bytes) -> bytes:
    """A PNG chunk's text with its keyword; zTXt and iTXt are decompressed. Other parts as they are."""
    if not what.startswith(("zTXt", "iTXt", "iCCP")):
        return body
    keyword, _, rest = body.partition(b"\0")
    packed, text = True, rest[1:]
    if what.startswith("iTXt"):
        packed, (language, _, text) = rest[:1] == b"\1", rest[2:].partition(b"\0")
        translated, _, text = text.partition(b"\0")
        keyword = b"\0".join([keyword, language, translated])
    with contextlib.suppress(zlib.error):  # of a damaged chunk, the bytes as they are
        text = zlib.decompressobj().decompress(text, INFLATED) if packed else text
    return keyword + b"\0" + text


def _nifti_size(head: bytes) -> int:
    """Bytes before the voxels: a NIfTI's header and extensions, which may hold a complete DICOM header. 0 if none."""
    for order in ("<", ">"):
        for size, at, kind in ((348, 108, "f"), (540, 168, "q")):
            if len(head) > size and struct.unpack_from(f"{order}i", head) == (size,):
                (offset,) = struct.unpack_from(f"{order}{kind}", head, at)
                return max(size, int(offset)) if math.isfinite(offset) else size
    return 0


def _header_lines(head: bytes) -> Iterator[Text]:
    """MetaImage's ``key = value``; NRRD's ``content``, data files and ``key:=value``."""
    nrrd = head[:4] == b"NRRD"
    for line in head[:INFLATED].splitlines():
        if not line.strip():
            break
        if nrrd:
            match = re.match(rb"([^:]+):=(.*)|(content|data ?file): *(.*)", line)
            key, _, value = line.partition(b":") if match else (b"", b"", b"")
        else:
            key, _, value = line.partition(b"=")
        name = key.strip().decode("latin-1")
        if name and name not in GEOMETRY:
            yield from _texts(f"{'NRRD' if nrrd else 'MetaImage'} {name}", value.lstrip(b"=").strip())
        if name == "ElementDataFile":
            break


def printable(content: bytes, least: int = 4) -> list[str]:
    """Runs of printable ASCII in a binary block."""
    return [run.decode() for run in re.findall(rb"[\x20-\x7e]{%d,}" % least, content)]


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


def strings(what: str, value: Any) -> Iterator[Text]:
    """All strings in a JSON value, including keys, not numbers."""
    if isinstance(value, str):
        yield Text(what, value)
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield Text(what, str(key))
            yield from strings(f"{what}.{key}" if re.fullmatch(r"[a-z_@]{1,20}", str(key)) else what, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from strings(what, inner)


def json_texts(content: bytes) -> Iterator[Text]:
    """The strings of a JSON file; the lines of an invalid one."""
    try:
        yield from strings("JSON", json.loads(content))
    except ValueError:
        yield from (Text("line", line) for line in content.decode("utf-8", "replace").splitlines())


def parquet_texts(file: BinaryIO) -> Iterator[Text]:
    """The strings of a table, those of a part of a column once each, and of its metadata."""
    table = pq.ParquetFile(file)
    yield from (Text("metadata", v.decode("latin-1")) for v in (table.schema_arrow.metadata or {}).values())
    for batch in table.iter_batches():
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            yield Text("column name", name)
            distinct = dict.fromkeys(text for _, text in strings("", column.to_pylist()))
            yield from (Text(f"column {name}", text) for text in distinct)


def tokens(text: str) -> Iterator[str]:
    """The text, its words, and their parts between punctuation, in lower case; not digits beside a decimal point.

    Used for values too short to search for within other text.
    """
    plain = text.strip().lower()
    yield plain
    for word in re.findall(r"[^\s\"',;:|(){}\[\]<>=/\\]+", plain):
        yield word.strip(".!?")
        yield from re.findall(r"(?<![^\W_])(?<!\d\.)[^\W_]+(?![^\W_])(?!\.\d)", word)
