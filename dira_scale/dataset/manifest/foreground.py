"""``foreground.parquet``: where each class is in the volumes that have a mask, so that crops can be drawn around it."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage.store import as_os_error, open_file

FOREGROUND_FILE = "foreground.parquet"
FOREGROUND = pa.schema(
    [
        ("key", pa.string()),  # of the manifest
        ("value", pa.uint8()),  # of the class in masks
        ("count", pa.int64()),  # its voxels
        ("voxels", pa.list_(pa.uint32())),  # some of them, in order: their numbers in the volume, z, y, x row by row
    ]
)


def read_foreground(root: Path, keys: pa.Array | None = None) -> pa.Table | None:
    """Return the table of the dataset in ``root``, or its rows of ``keys``; None without one. Raises DatasetError for
    one that is damaged."""
    parts = [*foreground_parts(root, keys)]
    return pa.concat_tables(parts) if parts else None


def foreground_parts(root: Path, keys: pa.Array | None = None) -> Iterator[pa.Table]:
    """Yield the rows of :func:`read_foreground` a row group at a time, of those that have any; first an empty table."""
    path = root / FOREGROUND_FILE
    try:
        with as_os_error(path):
            if not path.exists():
                return
            with open_file(path) as file, pq.ParquetFile(file) as parquet:
                yield FOREGROUND.empty_table()
                for group in range(parquet.num_row_groups):
                    here = None if keys is None else pc.is_in(parquet.read_row_group(group, ["key"])["key"], keys)
                    if here is None or pc.any(here).as_py():
                        rows = parquet.read_row_group(group, FOREGROUND.names).cast(FOREGROUND)
                        yield rows if here is None else rows.filter(here)
    except (ValueError, KeyError, pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(
            f"{path} cannot be read ({reason}): copy it again from its origin, or shard again"
        ) from error
