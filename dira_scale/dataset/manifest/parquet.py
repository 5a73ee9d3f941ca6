"""``manifest.parquet``: streamed once for the index, read again only for the columns that the index lacks."""

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage.retry import retry
from dira_scale.base.storage.store import is_local, open_file, with_errno
from dira_scale.base.storage.streams import fetch

ROWS = 2**16  # read at a time
LARGEST = 2**32  # bytes that are fetched from a store: 30 million rows
TAIL = 8  # bytes at a Parquet file's end: the length of its footer, and a mark


class ManifestFile:
    """A manifest on disk or in a store, from which the whole file is fetched for each reading. Thread-safe.

    Attributes:
        path: of the file.
        identity: differs from that of every other manifest, and of this one after a change.

    All methods raise DatasetError if the file cannot be read, or has been written to since this was made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._errors():
            self.identity = _identity(path)

    def rows(self, expected: pa.Schema) -> int:
        """Their number. Raises DatasetError unless the columns are the ``expected`` ones."""
        with self._open() as parquet:
            schema = parquet.schema_arrow
            numbers = {field.name: schema.get_field_index(field.name) for field in expected}  # -1: none, or several
            wrong = [f.name for f in expected if numbers[f.name] < 0 or schema.field(numbers[f.name]) != f]
            if wrong:
                names = ", ".join(wrong)
                raise DatasetError(f"{self.path}: columns missing or of the wrong type: {names}; shard again")
            return int(parquet.metadata.num_rows)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield all rows of some columns, ``ROWS`` at a time."""
        with self._open() as parquet:
            for batch in parquet.iter_batches(ROWS, columns=list(columns)):
                yield pa.Table.from_batches([batch])

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        with self._open() as parquet:
            return parquet.read(None if columns is None else list(columns))

    def cell(self, column: str, row: int) -> Any:
        with self._open() as parquet:
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if row < rows:
                    return parquet.read_row_group(group, [column])[column][row].as_py()
                row -= rows
            raise IndexError(f"{self.path} has no such row")

    @contextmanager
    def _open(self) -> Iterator[pq.ParquetFile]:
        with self._errors():
            if _identity(self.path) != self.identity:
                raise DatasetError(f"{self.path} has been written to since it was opened: run the command again")
            source = self.path if is_local(self.path) else io.BytesIO(fetch(self.path, LARGEST))
            with pq.ParquetFile(source, memory_map=True) as parquet:
                yield parquet

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


def _identity(path: Path) -> str:
    """Return the place; what the file system or the store says of the file; on a disk also the checksum of Parquet's
    footer, which describes every row group. Raises OSError."""
    if not is_local(path):
        return retry(lambda: _told(path), str(path))
    with open_file(path) as file:
        status = os.fstat(file.fileno())
        file.seek(max(0, status.st_size - TAIL))
        length = int.from_bytes(file.read(TAIL)[:4], "little")
        file.seek(max(0, status.st_size - TAIL - length))
        footer = xxhash.xxh3_128_hexdigest(file.read())
    return f"{os.path.realpath(path)} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {footer}"


def _told(path: Path) -> str:
    with with_errno(path):
        return f"{path} {sorted(path.fs.info(path.path).items())}"  # type: ignore[attr-defined]
