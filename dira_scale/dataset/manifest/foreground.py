"""``foreground.parquet``: where each class is in the volumes that have a mask, so that crops can be drawn around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage.store import as_os_error
from dira_scale.dataset.manifest.parquet import source_of

FOREGROUND_FILE = "foreground.parquet"
FOREGROUND = pa.schema(
    [
        ("key", pa.string()),  # of the manifest
        ("value", pa.uint8()),  # of the class in masks
        ("count", pa.int64()),  # its voxels
        ("voxels", pa.list_(pa.uint32())),  # some of them, in order: their numbers in the volume, z, y, x row by row
    ]
)
BUFFERED = 2**20  # bytes of a column that are read at a time: a row group may have gigabytes


def read_foreground(root: Path, keys: pa.Array | None = None) -> pa.Table | None:
    """Return the table of the dataset in ``root``, or its rows of ``keys``; None without one. Raises DatasetError for
    one that is damaged."""
    with as_os_error(root):
        if not (root / FOREGROUND_FILE).exists():
            return None
    return pa.concat_tables([FOREGROUND.empty_table(), *foreground_parts(root, keys)])


def foreground_parts(root: Path, keys: pa.Array | None = None) -> Iterator[pa.Table]:
    """Yield the rows of :func:`read_foreground` a row group at a time, of those that have any."""
    with open_foreground(root) as parquet:
        for group in range(parquet.num_row_groups):
            here = None if keys is None else pc.is_in(parquet.read_row_group(group, ["key"])["key"], keys)
            if here is None or pc.any(here).as_py():
                rows = parquet.read_row_group(group, FOREGROUND.names)
                yield rows if here is None else rows.filter(here)


@contextmanager
def open_foreground(root: Path) -> Iterator[pq.ParquetFile]:
    """Open the table of the dataset in ``root``, of which what is read is fetched. Raises DatasetError without one, and
    for one that is damaged, also where that is found inside."""
    path = root / FOREGROUND_FILE
    try:
        with source_of(path) as source, pq.ParquetFile(source, buffer_size=BUFFERED) as parquet:
            if parquet.schema_arrow != FOREGROUND:
                raise pa.ArrowInvalid("its columns are others")
            yield parquet
    except FileNotFoundError as error:
        reason = "it has no masks, or an older version has written it"
        raise DatasetError(f"{root} has no {FOREGROUND_FILE} ({reason})", lacks="foreground") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        text = f"{path} cannot be read ({reason}): copy it again from its origin, or shard again"
        raise DatasetError(text) from error
