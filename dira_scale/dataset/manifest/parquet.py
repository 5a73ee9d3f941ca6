"""``manifest.parquet``: read for the index, if the dataset has none, and later only for the columns that it lacks."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage.retry import retry
from dira_scale.base.storage.store import in_store, is_local, open_file, with_errno
from dira_scale.base.storage.streams import fetch
from dira_scale.dataset.manifest.checks import SIDES, wrong_columns
from dira_scale.dataset.manifest.info import DatasetInfo
from dira_scale.dataset.manifest.schema import INFO_FILE

ROWS = 2**16  # read at a time
FETCHED = 2**20  # rows whose columns are fetched from a store at once
LARGEST = 2**32  # bytes that are fetched whole, from a server that gives no parts
TAIL = 2**16  # bytes at the file's end that tell it from others: of Parquet's description of row groups


class ManifestFile:
    """A manifest on disk or in a store, from which only what is asked for is fetched. Thread-safe.

    Every column that is read is checked, as a stranger may have written it.

    Attributes:
        path: of the file; ``info``: of its dataset.
        identity: differs from that of every other manifest, and of this one after a change.

    All methods raise DatasetError if the file cannot be read, is damaged, is not that of ``info``, or has been written
    to since this was made.
    """

    def __init__(self, path: Path, info: DatasetInfo) -> None:
        self.path, self.info = path, info
        with self._errors():
            self.identity = identity_of(path)

    def batches(self, columns: Sequence[str], first: int = 0, last: int | None = None) -> Iterator[pa.Table]:
        """Yield the rows from ``first`` to ``last`` of some columns, ``ROWS`` at a time."""
        with self._open() as parquet:
            last = parquet.metadata.num_rows if last is None else last
            also = SIDES if "boxes" in columns else ()
            for groups, start in _together(parquet, first, last):
                for batch in parquet.iter_batches(ROWS, groups, list(dict.fromkeys([*columns, *also]))):
                    rows = pa.Table.from_batches([batch])[max(0, first - start) : max(0, last - start)]
                    start += len(batch)
                    if len(rows) and (fault := wrong_columns(rows, self.info)):
                        raise self.damaged(fault)
                    if len(rows):
                        yield rows.select(columns)

    def at(self, columns: Sequence[str], rows: np.ndarray) -> Iterator[pa.Table]:
        """Yield some columns of ``rows``, ascending numbers, from the row groups that are near them."""
        for near in np.split(rows, np.flatnonzero(np.diff(rows) > ROWS) + 1) if len(rows) else ():
            first = int(near[0])
            for batch in self.batches(columns, first, int(near[-1]) + 1):
                inside = slice(*np.searchsorted(near, [first, first + len(batch)]))
                yield batch.take(pa.array(near[inside] - first))
                first += len(batch)

    def table(self, columns: Sequence[str] | None = None, first: int = 0, last: int | None = None) -> pa.Table:
        """Return the rows from ``first`` to ``last`` of some columns, by default of all."""
        columns = self.info.schema.names if columns is None else [*columns]
        schema = pa.schema([self.info.schema.field(name) for name in columns])
        return pa.concat_tables([schema.empty_table(), *self.batches(columns, first, last)])

    def cell(self, column: str, row: int) -> Any:
        for rows in self.batches([column], row, row + 1):
            return rows[column][0].as_py()
        raise IndexError(f"{self.path} has no such row")

    def bond(self) -> dict[str, Any]:
        """Return what tells this file from others, wherever it is copied to."""
        with self._errors():
            size, tail = _end_of(self.path)
        return {"size": size, "tail": xxhash.xxh3_128_hexdigest(tail)}

    def checksum(self) -> str:
        """Return the 128-bit xxHash3 of the whole file, hex."""
        digest = xxhash.xxh3_128()
        with self._errors(), source_of(self.path) as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()

    def newer_than(self, seconds: float) -> bool:
        """Return whether it was written to after that time; False in a store, which does not say."""
        with self._errors():
            return is_local(self.path) and self.path.stat().st_mtime > seconds

    def damaged(self, cause: object) -> DatasetError:
        first_line = str(cause).splitlines()[0]
        return DatasetError(f"{self.path} is damaged ({first_line}): copy it again from its origin, or shard again")

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with self._errors():
            if identity_of(self.path) != self.identity:
                raise DatasetError(f"{self.path} has been written to since it was opened: run the command again")
            local = is_local(self.path)
            with nullcontext(self.path) if local else source_of(self.path) as source:
                parquet = pq.ParquetFile(source, memory_map=local, pre_buffer=not local)
                with parquet:
                    self._require_columns(parquet)
                    yield parquet

    def _require_columns(self, parquet: pq.ParquetFile) -> None:
        schema, expected = parquet.schema_arrow, self.info.schema
        numbers = {field.name: schema.get_field_index(field.name) for field in expected}  # -1: none, or several
        wrong = [f.name for f in expected if numbers[f.name] < 0 or schema.field(numbers[f.name]) != f]
        if wrong:
            names = ", ".join(wrong)
            raise DatasetError(f"{self.path}: columns missing or of the wrong type: {names}; shard again")
        if (rows := parquet.metadata.num_rows) != sum(self.info.counts.values()):
            raise DatasetError(
                f"{self.path} has {rows} rows, but {INFO_FILE} counts {sum(self.info.counts.values())} samples: the "
                "files do not belong together; shard again"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise DatasetError(
                f"{self.path} is missing: the conversion did not finish, or the file was lost; shard again"
            ) from error
        except (pa.ArrowException, OSError) as error:
            first_line = str(error).splitlines()[0]
            raise DatasetError(f"{self.path} cannot be read ({first_line}): shard again") from error


def _together(parquet: pq.ParquetFile, first: int, last: int) -> Iterator[tuple[list[int], int]]:
    """Yield row groups that are read at once, of those with the rows from ``first`` to ``last``, and their first
    row."""
    groups, begin, start = list[int](), 0, 0
    for group in range(parquet.num_row_groups):
        end = start + parquet.metadata.row_group(group).num_rows
        if start < last and end > first:
            if groups and end - begin > FETCHED:
                yield groups, begin
                groups = []
            begin = begin if groups else start
            groups.append(group)
        start = end
    if groups:
        yield groups, begin


@contextmanager
def source_of(path: Path) -> Iterator[Any]:
    """Open a file, of which only what is read is fetched from a store, if its server gives parts. Raises OSError."""
    if is_local(path):
        with open_file(path) as local:
            yield local
        return
    store, name = in_store(path)
    with with_errno(path), store.open(name, "rb", cache_type="none") as file:
        parts = True
        try:
            file.seek(1)
            parts = len(file.read(1)) == 1
        except ValueError:  # fsspec's, where the answer to a request for a part is the whole
            parts = False
        yield file if parts else io.BytesIO(fetch(path, LARGEST))


def _end_of(path: Path) -> tuple[int, bytes]:
    """Return a file's size, and the bytes at its end. Raises OSError."""

    def attempt() -> tuple[int, bytes]:
        with source_of(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            return size, file.read(TAIL)

    return attempt() if is_local(path) else retry(attempt, str(path))


def identity_of(path: Path) -> str:
    """Return the place, what the file system or the store says of the file, and on a disk a checksum of its end. Raises
    OSError."""

    def told() -> str:
        with with_errno(path):
            store, name = in_store(path)
            return f"{path} {sorted(store.info(name).items())}"

    if not is_local(path):
        return retry(told, str(path))
    status, (size, end) = path.stat(), _end_of(path)
    tail = xxhash.xxh3_128_hexdigest(end)
    return f"{os.path.realpath(path)} {size} {status.st_mtime_ns} {status.st_ctime_ns} {tail}"
