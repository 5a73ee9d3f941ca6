"""Decode all text in a file besides its pixels: member names, cells, JSON strings, chunks, segments.

Used on both sides: the images of the source, and the files of the dataset.
"""

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from gzip import GzipFile
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

INFLATED = 2**20  # bytes of a compressed chunk that are read
PIXELS = ("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "cHRM", "sRGB", "sBIT", "pHYs")  # PNG chunks without text
JFIF = b"JFIF\0"
NIFTI = {  # offset and length of the header's texts
    348: {"data_type": (4, 10), "db_name": (14, 18), "descrip": (148, 80), "aux_file": (228, 24),
          "intent_name": (328, 16)},
    540: {"descrip": (240, 80), "aux_file": (320, 24), "intent_name": (508, 16)},
}  # fmt: skip
GEOMETRY = {  # MetaImage keys whose values are numbers or keywords
    "ObjectType", "ObjectSubType", "NDims", "BinaryData", "BinaryDataByteOrderMSB", "CompressedData",
    "CompressedDataSize", "TransformMatrix", "Offset", "Position", "Origin", "Orientation", "CenterOfRotation",
    "AnatomicalOrientation", "ElementSpacing", "ElementSize", "DimSize", "ElementType", "ElementByteOrderMSB",
    "ElementMin", "ElementMax", "ElementNumberOfChannels", "HeaderSize", "Modality",
}  # fmt: skip


class Text(NamedTuple):
    """A text, and the part of the file it is from: ``tEXt chunk``, ``column reason`` …"""

    what: str
    text: str


def texts_of(head: bytes) -> Iterator[Text]:
    """The texts of an image or volume, its format detected by the first bytes; ``head`` is the file or enough of it."""
    if head[:2] == b"\x1f\x8b":
        head = _unzipped(head)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        yield from _png(head)
    elif head[:2] == b"\xff\xd8":
        yield from _jpeg(head)
    elif head[:4] == b"\xff\x4f\xff\x51":
        yield from _jpeg2000(head)
    elif len(head) > 348 and (size := _nifti_size(head)):
        yield from _nifti(head, size)
    elif re.match(rb"(Comment|ObjectType|NDims)\s*=", head) or head[:4] == b"NRRD":
        yield from _header_lines(head)
    elif head[:4] in (b"II*\0", b"MM\0*"):
        yield from (Text("TIFF tag", text) for text in printable(head[:INFLATED], least=6))
    elif head[2:10] == b"b2frame\0":
        yield from _blosc2(head)


def _png(content: bytes) -> Iterator[Text]:
    position = 8
    while position + 8 <= len(content):
        length, kind = (
            int.from_bytes(content[position : position + 4]),
            content[position + 4 : position + 8].decode("latin-1"),
        )
        body = content[position + 8 : position + 8 + length]
        position += 12 + length
        if kind not in PIXELS:
            yield from _texts(f"{kind} chunk", _inflated(kind, body))
        if kind == "IEND":
            break
    yield from _texts("bytes after the PNG", content[position:])


def _inflated(kind: str, body: bytes) -> bytes:
    """The chunk's text with its keyword; zTXt and iTXt are decompressed."""
    if kind not in ("zTXt", "iTXt", "iCCP"):
        return body
    keyword, _, rest = body.partition(b"\0")
    if kind == "iTXt":
        packed, (language, _, text) = rest[:1] == b"\1", rest[2:].partition(b"\0")
        translated, _, text = text.partition(b"\0")
        return b"\0".join([keyword, language, translated, _zlib(text) if packed else text])
    return keyword + b"\0" + _zlib(rest[1:])


def _zlib(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(packed, INFLATED)
    except zlib.error:
        return packed


def _unzipped(head: bytes) -> bytes:
    try:
        return GzipFile(fileobj=io.BytesIO(head)).read1(INFLATED)
    except (OSError, EOFError, zlib.error):
        return b""


def _jpeg(content: bytes) -> Iterator[Text]:
    """APPn (except plain JFIF) and COM segments up to the scan; bytes after the last end of image."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != 0xDA:
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4])
        body = content[position + 4 : position + 2 + length]
        if marker == 0xFE or (0xE0 <= marker <= 0xEF and not body.startswith(JFIF)):
            yield from _texts("COM segment" if marker == 0xFE else f"APP{marker - 0xE0} segment", body)
        position += 2 + length
    yield from _texts("bytes after the JPEG", content[content.rfind(b"\xff\xd9") + 2 :])


def _jpeg2000(content: bytes) -> Iterator[Text]:
    """COM segments of a codestream's main header."""
    position = 2
    while position + 4 <= len(content) and content[position : position + 2] != b"\xff\x90":
        length = int.from_bytes(content[position + 2 : position + 4])
        if content[position + 1] == 0x64:
            yield from _texts("COM segment", content[position + 6 : position + 2 + length])
        position += 2 + length


def _nifti_size(head: bytes) -> int | None:
    return next((n for n in NIFTI if head[:4] in (n.to_bytes(4, "little"), n.to_bytes(4, "big"))), None)


def _nifti(head: bytes, size: int) -> Iterator[Text]:
    """The header's texts, and its extensions, which may hold a complete DICOM header."""
    for name, (position, length) in NIFTI[size].items():
        yield from _texts(f"NIfTI {name}", head[position : position + length].partition(b"\0")[0])
    order = "little" if head[:4] == size.to_bytes(4, "little") else "big"
    position = size + 4
    while head[size : size + 1] == b"\1" and position + 8 <= len(head):
        length = int.from_bytes(head[position : position + 4], order)  # type: ignore[arg-type]
        if length < 16 or length % 16:
            break
        yield from (Text("NIfTI extension", text) for text in printable(head[position + 8 : position + length]))
        position += length


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


def _blosc2(payload: bytes) -> Iterator[Text]:
    import blosc2

    try:
        array = blosc2.ndarray_from_cframe(payload)
        layers = {name: array.schunk.vlmeta[name] for name in array.schunk.vlmeta}
    except (ValueError, RuntimeError):
        return  # damaged: its raw bytes are still searched
    for name, value in layers.items():
        yield from strings(f"blosc2 layer {name}", [name, value])


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
    if isinstance(value, str | bytes):
        yield Text(what, value if isinstance(value, str) else value.decode("latin-1"))
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
    """Distinct strings per row group, from columns of any depth; and the file's key-value metadata."""
    table = pq.ParquetFile(file)
    yield from (Text("metadata", v.decode("latin-1")) for v in (table.schema_arrow.metadata or {}).values())
    yield from (Text("column name", name) for name in table.schema_arrow.names)
    for number in range(table.num_row_groups):
        for name, column in zip(table.schema_arrow.names, table.read_row_group(number).columns, strict=True):
            for chunk in column.chunks:
                yield from (Text(f"column {name}", text) for text in _leaves(chunk))


def _leaves(array: pa.Array) -> Iterator[str]:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from (text for text in array.unique().to_pylist() if text)
    elif pa.types.is_binary(kind):
        yield from (blob.decode("latin-1") for blob in array.unique().to_pylist() if blob)
    elif pa.types.is_map(kind):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif pa.types.is_nested(kind):
        for inner in array.flatten() if pa.types.is_struct(kind) else [array.flatten()]:
            yield from _leaves(inner)
    elif pa.types.is_dictionary(kind):
        yield from _leaves(array.dictionary)


def header_texts(member: tarfile.TarInfo) -> Iterator[Text]:
    """The texts of a member's tar header. Numbers that should be 0 (times, owners) count as texts."""
    named = {"name": member.name, "owner": member.uname, "group": member.gname, "link": member.linkname}
    yield from (Text(f"tar {what}", text) for what, text in named.items() if text)


def extension_texts(content: bytes) -> Iterator[Text]:
    """The texts of an extension header for the next member: a long name, the lines of a pax header."""
    yield from _texts("tar extension", content)


def tokens(text: str) -> Iterator[str]:
    """The text, its words, and their parts between punctuation, in lower case; not digits beside a decimal point.

    Used for values too short to search for within other text.
    """
    plain = text.strip().lower()
    yield plain
    for word in re.findall(r"[^\s\"',;:|(){}\[\]<>=/\\]+", plain):
        yield word.strip(".!?")
        yield from re.findall(r"(?<![^\W_])(?<!\d\.)[^\W_]+(?![^\W_])(?!\.\d)", word)
