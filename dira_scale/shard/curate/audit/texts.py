"""The text in files beside pixels: parts of images, the strings of tables and JSON; and a dataset's own words, which
cannot be distinguished from leaks."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow.parquet as pq

import dira_scale
from dira_scale.archive.deidentify import MANUFACTURERS, SEXES, VIEWS
from dira_scale.archive.reading import ACCEPTED
from dira_scale.archive.recipe import identity_hash
from dira_scale.archive.sample import FILLED
from dira_scale.archive.slices import EMPTY
from dira_scale.archive.sources.split_lists import UNMATCHED
from dira_scale.dataset.manifest import BOX, MANIFEST_FILE, QUARANTINE, SCHEMA, ShardedDataset
from dira_scale.dataset.manifest.croissant import croissant
from dira_scale.dataset.manifest.schema import POSITION, SLICE
from dira_scale.shard.curate.audit.search import Text

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
PIXELS = ("IHDR", "PLTE", "IDAT", "IEND", "tRNS", "gAMA", "cHRM", "sRGB", "sBIT", "pHYs")  # PNG chunks without text
PLAIN = (b"JFIF\0", b"Adobe\0")  # JPEG segments without text


def parts_of(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the parts of a PNG or JPEG beside its pixels: chunks, APPn and COM segments, bytes after the image."""
    if content.startswith(PNG):
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
    elif content.startswith(JPEG):
        position = 2
        while position + 4 <= len(content) and content[position] == 0xFF and content[position + 1] != 0xDA:  # the scan
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
            distinct = dict.fromkeys(cell.text for cell in strings("", column.to_pylist()))
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


ATTRIBUTES = {  # the values that de-identification and conversion give to an attribute
    "sex": "|".join(SEXES.values()),
    "age": r"\d|[1-8]\d|90",
    "view": "|".join([*VIEWS, "OTHER"]),
    "manufacturer": "|".join([*MANUFACTURERS, "other"]),
    FILLED: r"[1-9]\d{0,2}",
    SLICE: r"\d{1,4}",
    POSITION: r"-?\d{1,4}\.\d",
}
FILES = ["tar", "json", "parquet", "croissant", "manifest", "dataset", "quarantine", "mask", "ustar"]
# Functions whose arguments are or become reasons.
GIVEN_TO = {"RejectedError", "GeometryError", "QuarantinedError", "Refused", "rejects", "replace", "SourceRecord",
            "_found_series"}  # fmt: skip


def own_words(dataset: ShardedDataset) -> set[str]:
    """All these words, in lower case, and the texts that contain them."""
    info = asdict(dataset.info)
    if identity_hash(dataset.info.recipe) != dataset.info.recipe_hash:  # it was edited later
        del info["recipe"]
    values: list[Any] = [info, [str(number) for number in (*info["counts"].values(), *info["shards"].values())]]
    values += [SCHEMA.names, QUARANTINE.names, [field.name for field in BOX], FILES, list(ATTRIBUTES)]
    values += [croissant(dataset.info, dataset.root / MANIFEST_FILE), EMPTY, UNMATCHED, list(ACCEPTED.values())]
    package = Path(dira_scale.__path__[0])
    for path in package.glob("archive/**/*.py"):  # the reasons for rejections
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and getattr(call.func, "attr", getattr(call.func, "id", "")) in GIVEN_TO:
                constants = [part.value for part in ast.walk(call) if isinstance(part, ast.Constant)]
                values += [constant for constant in constants if isinstance(constant, str)]
    cells = (cell for batch in dataset.manifest.batches(["attributes"]) for cell in batch["attributes"].to_pylist())
    pairs = {pair for cell in cells for pair in cell or ()}
    values += [value for name, value in pairs if name in ATTRIBUTES and re.fullmatch(ATTRIBUTES[name], value)]
    return {word for value in values for text in strings("", value) for word in tokens(text.text)}
