"""Writes the dataset's tables one row group at a time, to bound memory."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 2**14  # per row group: about this many rows are in memory at most


class TableWriter:
    """A Parquet file written one row group at a time. A context manager: the file is complete on exit."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._schema, self._waiting, self._rows = schema, list[pa.Table](), 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Append rows, each a mapping of the schema's columns."""
        self._waiting.append(pa.Table.from_pylist(rows, self._schema))
        self._rows += len(rows)
        if self._rows >= ROWS:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
        self._waiting, self._rows = [], 0

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write()
        self._writer.close()
