"""``foreground.parquet``: where each class is in the volumes that have a mask, so that crops can be drawn around it."""

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
    path = root / FOREGROUND_FILE
    try:
        with as_os_error(path):
            if not path.exists():
                return None
            with open_file(path) as file:
                return pq.read_table(
                    file, schema=FOREGROUND, filters=None if keys is None else pc.field("key").isin(keys)
                )
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DatasetError(
            f"{path} cannot be read ({reason}): copy it again from its origin, or shard again"
        ) from error
