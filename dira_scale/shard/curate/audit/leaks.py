"""Search a dataset for the source's values: in its raw bytes, and in the texts of its tables, JSON and names."""

import contextlib
import os
import pickle
import re
import tarfile
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from dira_scale.base.machine.progress import bar
from dira_scale.base.machine.workers import parallel_map
from dira_scale.base.storage.store import open_file
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.tar import members
from dira_scale.shard.curate.audit.report import AuditFinding
from dira_scale.shard.curate.audit.search import Match, Searcher, SourceValues
from dira_scale.shard.curate.audit.texts import Text, json_texts, parquet_texts, parts_of, tokens

MOST_HITS = 1000  # after which a file is not searched further
BATCH = 512  # decoded texts searched at a time
WHOLE_DIGITS = 8  # a shorter number within a longer one is a different number
DIGITS, HEX = b"0123456789", b"0123456789abcdef"
LETTERS = DIGITS + b"_abcdefghijklmnopqrstuvwxyz" + bytes(range(128, 256))
HASHES = (16, 24, 64)  # hex digits of xxh3; of keys, patients and studies; of SHA-256


@dataclass
class SearchResult:
    """The result for ``size`` bytes; ``coincidences``: hits within the program's own words, hashes and numbers."""

    hits: list[AuditFinding] = field(default_factory=list)
    size: int = 0
    coincidences: int = 0


def find_leaks(dataset: ShardedDataset, values: SourceValues, scratch: Path, workers: int) -> SearchResult:
    """Search every file of the dataset. ``scratch`` is a folder for the worker processes. Raises OSError."""
    stored, result = scratch / "values.pickle", SearchResult()
    stored.write_bytes(pickle.dumps(values))
    files = {path.relative_to(dataset.root).as_posix(): path for path in dataset.root.rglob("*") if path.is_file()}
    files |= {shard: dataset.file(shard) for shard in dataset.info.shards}
    with bar("searching", "files") as progress:
        task = progress.add_task("", total=len(files))
        for part in parallel_map(_search_file, ((file, name, stored) for name, file in files.items()), workers):
            result.hits += part.hits
            result.size, result.coincidences = result.size + part.size, result.coincidences + part.coincidences
            progress.advance(task)
    result.hits.sort()
    return result


@lru_cache(maxsize=1)
def _loaded(stored: Path) -> tuple[SourceValues, Searcher]:
    values: SourceValues = pickle.loads(stored.read_bytes())
    return values, Searcher(values.long)


def _search_file(file: Path, name: str, stored: Path) -> SearchResult:
    """Search one file, called ``name`` in the hits."""
    values, searcher = _loaded(stored)
    result, headers = SearchResult(), list[tarfile.TarInfo]()
    with open_file(file) as stream:
        if name.endswith(".tar"):
            with contextlib.suppress(tarfile.TarError):  # the rest is still searched as bytes
                headers.extend(members(stream))
            result.hits += islice(_added(stream, name, headers), MOST_HITS)
        stream.seek(0)
        _search_texts(_texts(stream, name, headers), name, values, searcher, result)
        reported = {(hit.member, hit.value) for hit in result.hits}
        stream.seek(0)
        for match in searcher.file(stream):
            number = bisect_right(headers, match.offset, key=lambda header: header.offset) - 1
            member = headers[number].name if number >= 0 else ""
            position = match.offset - (headers[number].offset_data if number >= 0 else 0)  # negative in its header
            value = match.form.decode("utf-8", "replace")
            if position < 0 or (member, value) in reported:  # already found, or looked at, in the decoded texts
                continue
            if is_coincidence(match, values.words):
                result.coincidences += 1
                continue
            result.hits.append(AuditFinding("leak", name, member, f"byte {position}", match.kind, value))
            if len(result.hits) >= MOST_HITS:
                break
        result.size = stream.seek(0, os.SEEK_END)
    return result


def _added(stream: BinaryIO, name: str, headers: list[tarfile.TarInfo]) -> Iterator[AuditFinding]:
    """Yield what conversions do not write: times and owners of tar members, parts of images beside their pixels."""
    for member in headers:
        for what in ("mtime", "uid", "gid"):
            if number := getattr(member, what):
                yield AuditFinding("leak", name, member.name, "tar header", what, str(number))
        if not member.name.endswith(".json"):
            stream.seek(member.offset_data)
            for what, _ in parts_of(stream.read(member.size)):
                yield AuditFinding("leak", name, member.name, what, "not written by a conversion", what)


def _texts(stream: BinaryIO, name: str, headers: list[tarfile.TarInfo]) -> Iterator[tuple[str, Text]]:
    """The texts of a table, a JSON file or a tar's headers and sidecars, each with its tar member."""
    yield "", Text("name of the file", name)
    for member in headers:
        named = {"name": member.name, "owner": member.uname, "group": member.gname, "link": member.linkname}
        yield from ((member.name, Text(f"tar {what}", text)) for what, text in named.items() if text)
        if member.name.endswith(".json"):
            stream.seek(member.offset_data)
            yield from ((member.name, text) for text in json_texts(stream.read(member.size)))
    if name.endswith(".parquet"):
        yield from (("", text) for text in parquet_texts(stream))
    elif name.endswith((".json", ".jsonl", ".txt", ".csv", ".md", ".yaml", ".html")):
        yield from (("", text) for text in json_texts(stream.read()))


def _search_texts(
    texts: Iterable[tuple[str, Text]], file: str, values: SourceValues, searcher: Searcher, result: SearchResult
) -> None:
    waiting = iter(texts)
    while (batch := list(islice(waiting, BATCH))) and len(result.hits) < MOST_HITS:
        hits: dict[AuditFinding, None] = {}  # distinct, in order
        for number, match in searcher.texts(text.text for _, text in batch):
            if is_coincidence(match, values.words):
                result.coincidences += 1
                continue
            member, text = batch[number]
            value = match.form.decode("utf-8", "replace")
            hits[AuditFinding("leak", file, member, text.what, match.kind, value)] = None
        for member, text in batch:
            for token in tokens(text.text):
                if kind := values.short.get(token.encode("utf-8", "surrogatepass")):
                    hits[AuditFinding("leak", file, member, text.what, kind, token)] = None
        result.hits += hits


def is_coincidence(match: Match, words: Collection[bytes] = ()) -> bool:
    """Return whether ``match`` is part of one of our own words, a hash, a longer number, or a fraction's digits.

    A given six-digit number occurs by chance in every few million hex digits, and hospitals have all six-digit times.
    """
    before, form, after = match.before.lower(), match.form, match.after.lower()

    def around(characters: bytes) -> bytes:
        """The run of these characters that the value is in."""
        start = before[len(before.rstrip(characters)) :]
        return start + form + after[: len(after) - len(after.lstrip(characters))]

    if (word := around(LETTERS)) != form and word in words:
        return True
    if not form.strip(HEX) and len(run := around(HEX)) > len(form) and len(run) in HASHES:
        return True
    if not form.isdigit():
        return False
    if len(form) < WHOLE_DIGITS and around(DIGITS) != form:
        return True
    return bool(re.search(rb"(^|[^0-9.])\d+\.\d*\Z", before) and re.match(rb"\d*(e[+-]?\d+)?([^0-9.a-z]|$)", after))
