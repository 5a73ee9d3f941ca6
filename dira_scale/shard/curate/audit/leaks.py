"""Search a dataset for the source's values: in its raw bytes, and in everything they decode to."""

import contextlib
import os
import re
import tarfile
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.tar import members
from dira_scale.machine.progress import bar
from dira_scale.machine.workers import parallel_map
from dira_scale.shard.curate.audit.metadata import (
    Text,
    extension_texts,
    header_texts,
    json_texts,
    parquet_texts,
    texts_of,
    tokens,
)
from dira_scale.shard.curate.audit.search import Match, Searcher
from dira_scale.storage.store import open_file

MOST = 1000  # hits after which a file is not searched further
BATCH = 512  # decoded texts searched at a time
NUMBERS = ((100, 156), (329, 345))  # numeric bytes of a tar header: mode, owners, size, time, checksum
WHOLE_DIGITS = 8  # a shorter number within a longer one is a different number
HASHES = (16, 24, 64)  # hex digits of xxh3; of keys, patients and studies; of SHA-256


class Hit(NamedTuple):
    """A value of the source in the dataset.

    ``position``: byte in the file or tar member, or the decoded part (``column reason``, ``tEXt chunk``).
    """

    file: str
    member: str
    position: str
    kind: str
    value: str


@dataclass
class SearchResult:
    """The result for ``size`` bytes; ``coincidences``: hits within the program's own words, hashes and numbers."""

    hits: list[Hit] = field(default_factory=list)
    size: int = 0
    coincidences: int = 0


def find_leaks(dataset: ShardedDataset, values: Path, workers: int) -> SearchResult:
    """Search every file of the dataset for the values in the folder ``values``. Raises OSError."""
    files = files_of(dataset)
    searcher, whole = Searcher(values), SearchResult()
    for name in files:
        _search_texts([("", Text("name of the file", name))], name, searcher, whole)
    with bar("searching", "files") as shown:
        task = shown.add_task("", total=len(files))
        for result in parallel_map(search_file, ((file, name, values) for name, file in files.items()), workers):
            whole.hits += result.hits
            whole.size, whole.coincidences = whole.size + result.size, whole.coincidences + result.coincidences
            shown.advance(task)
    whole.hits.sort()
    return whole


def files_of(dataset: ShardedDataset) -> dict[str, Path]:
    """By name: all files in its folder, and shards elsewhere."""
    inside = {path.relative_to(dataset.root).as_posix(): path for path in dataset.root.rglob("*") if path.is_file()}
    return inside | {shard: dataset.file(shard) for shard in dataset.info.shards}


def search_file(file: Path, name: str, values: Path) -> SearchResult:
    """Search one file, called ``name`` in the hits."""
    searcher, result = Searcher(values), SearchResult()
    with open_file(file) as stream:
        members = _members(stream) if name.endswith(".tar") else []
        result.hits += islice(_stamps(name, members), MOST)
        _search_texts(_texts(stream, name, members), name, searcher, result)
        reported = {(hit.member, hit.value) for hit in result.hits}
        stream.seek(0)
        for match in searcher.file(stream):
            hit, inside = _located(match, name, members)
            if inside or is_coincidence(match, searcher.words):
                result.coincidences += 1
            elif (hit.member, hit.value) not in reported:  # not already reported from the decoded text
                result.hits.append(hit)
            if len(result.hits) >= MOST:
                break
        result.size = stream.seek(0, os.SEEK_END)
    return result


def is_coincidence(match: Match, words: Collection[bytes] = ()) -> bool:
    """Whether it is part of one of our own words, a hash, a longer number, or a fraction's digits.

    A given six-digit number occurs by chance in every few million hex digits, and hospitals have all six-digit times.
    """
    before, after = match.before.lower(), match.after.lower()
    start, end = _end(rb"[0-9a-z_\x80-\xff]*\Z", before), _end(rb"^[0-9a-z_\x80-\xff]*", after)
    if start + end and before[len(before) - start :] + match.form + after[:end] in words:
        return True
    if re.fullmatch(rb"[0-9a-f]+", match.form):
        run = _end(rb"[0-9a-f]*\Z", before) + len(match.form) + _end(rb"^[0-9a-f]*", after)
        if run > len(match.form) and run in HASHES:
            return True
    if not match.form.isdigit():
        return False
    if len(match.form) < WHOLE_DIGITS and (before[-1:].isdigit() or after[:1].isdigit()):
        return True
    return bool(re.search(rb"(^|[^0-9.])\d+\.\d*\Z", before) and re.match(rb"\d*(e[+-]?\d+)?([^0-9.a-z]|$)", after))


def _end(pattern: bytes, text: bytes) -> int:
    match = re.search(pattern, text)
    return len(match[0]) if match else 0


def _members(stream: BinaryIO) -> list[tarfile.TarInfo]:
    """The members of the readable part; the rest is still searched as bytes."""
    readable: list[tarfile.TarInfo] = []
    with contextlib.suppress(tarfile.TarError):
        readable.extend(members(stream))
    return readable


def _located(match: Match, name: str, members: list[tarfile.TarInfo]) -> tuple[Hit, bool]:
    """The hit, and whether it is in the numbers of a tar header, which ``_stamps`` checks."""
    text = match.form.decode("utf-8", "replace")
    number = bisect_right(members, match.offset, key=lambda member: member.offset) - 1
    if number < 0:
        return Hit(name, "", f"byte {match.offset}", match.kind, text), False
    member = members[number]
    if match.offset < member.offset_data:
        at = match.offset - (member.offset_data - tarfile.BLOCKSIZE)
        numbers = any(low <= at and at + len(match.form) <= high for low, high in NUMBERS)
        return Hit(name, member.name, "tar header", match.kind, text), numbers
    position = match.offset - member.offset_data
    where = f"byte {position}" if position < member.size else f"byte {position - member.size} after it"
    return Hit(name, member.name, where, match.kind, text), False


def _texts(stream: BinaryIO, name: str, members: list[tarfile.TarInfo]) -> Iterator[tuple[str, Text]]:
    """All decoded texts, each with its tar member."""
    stream.seek(0)
    if name.endswith(".tar"):
        yield from _tar_texts(stream, members)
    elif name.endswith(".parquet"):
        yield from (("", text) for text in parquet_texts(stream))
    elif name.endswith((".json", ".jsonl", ".txt", ".csv", ".md", ".yaml", ".html")):
        yield from (("", text) for text in json_texts(stream.read()))
    else:
        yield from (("", text) for text in texts_of(stream.read(2**22)))


def _tar_texts(stream: BinaryIO, members: list[tarfile.TarInfo]) -> Iterator[tuple[str, Text]]:
    for member in members:
        yield from ((member.name, text) for text in header_texts(member))
        stream.seek(member.offset_data)
        content = stream.read(member.size)
        read = json_texts if member.name.endswith(".json") else texts_of if member.isfile() else extension_texts
        yield from ((member.name, text) for text in read(content))


def _stamps(name: str, members: list[tarfile.TarInfo]) -> Iterator[Hit]:
    """Members with a time or owner: these are 0 in our shards."""
    for member in members:
        for what in ("mtime", "uid", "gid"):
            if number := getattr(member, what):
                yield Hit(name, member.name, "tar header", what, str(number))


def _search_texts(texts: Iterable[tuple[str, Text]], file: str, searcher: Searcher, result: SearchResult) -> None:
    waiting = iter(texts)
    while batch := list(islice(waiting, BATCH)):
        if len(result.hits) >= MOST:
            return
        hits: dict[Hit, None] = {}  # distinct, in order
        for number, match in searcher.texts(text.text for _, text in batch):
            if is_coincidence(match, searcher.words):
                result.coincidences += 1
                continue
            member, text = batch[number]
            hits[Hit(file, member, text.what, match.kind, match.form.decode("utf-8", "replace"))] = None
        for member, text in batch:
            for token in tokens(text.text):
                if kind := searcher.short.get(token.encode("utf-8", "surrogatepass")):
                    hits[Hit(file, member, text.what, kind, token)] = None
        result.hits += hits
