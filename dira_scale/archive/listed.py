"""An archive's files, inspected by the tasks of an array, each its own; one process plans with what all have found.

``.partial/listed/3-of-16.parquet`` has a text for each file that its task has met, in the order of its walk: all that
``sources.inspect.Inspected`` says. It is complete or not there.
"""

import heapq
import json
import re
import resource
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.archive import as_data
from dira_scale.archive.claim import ShardSlice
from dira_scale.archive.imaging.dicom.header import MAX_FRAMES
from dira_scale.archive.output import PARTIAL
from dira_scale.archive.sources.inspect import Inspected, Inspector
from dira_scale.archive.sources.published import in_threads
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import publish
from dira_scale.base.storage.store import as_os_error, is_local
from dira_scale.base.storage.walk import WalkShare, in_order, resolve_links, walked

LISTED, PART = "listed", re.compile(r"([0-9]+)-of-([0-9]+)\.parquet")
AT_ONCE = 2048  # files in a row group; the join holds one row group of each part
ABOUT = b"dira_scale"  # what the part is of, in the metadata of its schema
AGAIN = "delete it, and run `shard list` with its slice again"
SCHEMA = pa.schema([("file", pa.string())])


def list_part(
    out: Path, listing: list[Any], root: Path, inspect: Inspector, part: ShardSlice, workers: int, scratch: Path
) -> int | None:
    """Inspect the files of ``part`` and publish what is found, by way of ``scratch``; return how many they are, None if
    they were listed before. Raises OSError."""
    final, count = out / PARTIAL / LISTED / f"{part.number}-of-{part.total}.parquet", 0
    with as_os_error(final):
        if final.exists():
            return None
    if is_local(out):
        final.parent.mkdir(exist_ok=True)
    share, notation = WalkShare(root, part.number, part.total), _notation(root)
    schema = SCHEMA.with_metadata({ABOUT: json.dumps([*part, [share.depth, listing]])})
    with pq.ParquetWriter(scratch / final.name, schema, compression="zstd", write_page_checksum=True) as file:
        found = in_threads(inspect, walked(root, share), workers, "files")
        while some := list(islice(found, AT_ONCE)):
            count += len(some)
            texts = [as_data.write(each._replace(path=each.link or each.path), notation) for each in some]
            file.write_table(pa.table([texts], schema=schema))
    publish(scratch / final.name, final)
    return count


def is_listed(out: Path) -> bool:
    """Return whether a task has begun to list."""
    with as_os_error(out):
        return (out / PARTIAL / LISTED).exists()


class Parts:
    """Iterates over what all tasks have inspected, in the order of one walk.

    ``root`` is where the walk began. Raises UserError if a part is missing, damaged, or of another listing than the
    others or than ``listing`` says.
    """

    def __init__(self, out: Path, listing: list[Any], root: Path):
        self._folder, self._root = out / PARTIAL / LISTED, root
        with as_os_error(out):
            there = {path.name: path for path in self._folder.iterdir() if PART.fullmatch(path.name)}
        total = max((int(name.partition(".")[0].rpartition("-")[2]) for name in there), default=1)
        names = {f"{number}-of-{total}.parquet": number for number in range(1, min(total, 10**6) + 1)}
        if absent := [f"{number}/{total}" for name, number in names.items() if name not in there]:
            shown = ", ".join(absent[:8]) + " …" * (len(absent) > 8)
            raise UserError(f"{self._folder} lacks {shown}: run `shard list` with these slices first")
        self._paths, depths = [there[name] for name in names], set[int]()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # all parts are open at once
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        for name, number in names.items():
            with as_data.opened(there[name], AGAIN) as file:
                *part, (depth, found) = json.loads((file.schema_arrow.metadata or {})[ABOUT])
                depths.add(depth)
            if found != listing or part != [number, total] or len(depths) > 1 or len(there) > total:
                raise UserError(f"{self._folder} holds parts of several listings, or of other images: delete it, and "
                                "list all slices again")  # fmt: skip

    def __iter__(self) -> Iterator[Inspected]:
        streams = map(self._inspected, self._paths)
        return (found for _, found in heapq.merge(*streams, key=itemgetter(0)))

    def _inspected(self, path: Path) -> Iterator[tuple[Any, Inspected]]:
        notation, start = _notation(self._root), len(_prefix(self._root))
        with as_data.opened(path, AGAIN) as file:
            for batch in file.iter_batches(AT_ONCE):
                for text in batch["file"].to_pylist():
                    found: Inspected = as_data.read(Inspected, text, notation)
                    if not 0 < int(found.header.get("frames", 1)) <= MAX_FRAMES:
                        raise ValueError("more frames than a file may have")
                    place = in_order(str(found.path)[start:])
                    yield place, found._replace(path=resolve_links(found.path)) if found.link else found


def _notation(root: Path) -> as_data.Notation:
    """Paths below ``root``, none of them hidden: what a walk meets."""
    prefix = _prefix(root)

    def path(text: str) -> Path:
        if any(part[:1] in ("", ".") for part in text.split("/")) or "\0" in text:
            raise ValueError("a path that is not below recipe.images")
        return Path(f"{prefix}{text}") if is_local(root) else root / text

    return as_data.Notation(lambda path: str(path)[len(prefix) :], path)


def _prefix(root: Path) -> str:
    return f"{str(root).rstrip('/')}/"
