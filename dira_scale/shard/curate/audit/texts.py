"""The text in files beside pixels: parts of images, and the strings of tables and JSON."""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow.parquet as pq

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PIXELS = ("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "cHRM", "sRGB", "sBIT", "pHYs")  # PNG chunks without text
PLAIN = (b"JFIF\0", b"Adobe\0")  # JPEG segments without text


class Text(NamedTuple):
    """A text, and the part of the file it is from."""

    what: str
    text: str


def parts_of(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What a PNG or JPEG holds beside its pixels: chunks, segments, bytes after the image."""
    if content.startswith(PNG):
        yield from _chunks(content)
    elif content.startswith(JPEG):
        yield from _segments(content)


def _chunks(content: bytes) -> Iterator[tuple[str, bytes]]:
    position, kind = len(PNG), ""
    while position + 8 <= len(content) and kind != "IEND":
        length = int.from_bytes(content[position : position + 4])
        kind = content[position + 4 : position + 8].decode("latin-1")
        body = content[position + 8 : position + 8 + length]
        position += 12 + length
        if kind not in PIXELS:
            yield (f"{kind} chunk", body)
    if content[position:]:
        yield ("bytes after the PNG", content[position:])


def _segments(content: bytes) -> Iterator[tuple[str, bytes]]:
    """APPn and COM segments up to the scan; bytes after the last end of image."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != 0xDA:
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4])
        body = content[position + 4 : position + 2 + length]
        position += 2 + length
        if marker == 0xFE or (0xE0 <= marker <= 0xEF and not body.startswith(PLAIN)):
            yield ("COM segment" if marker == 0xFE else f"APP{marker - 0xE0} segment", body)
    if after := content[content.rfind(b"\xff\xd9") + 2 :]:
        yield ("bytes after the JPEG", after)


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
