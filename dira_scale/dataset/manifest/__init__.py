"""A sharded dataset: ``dataset.json``, ``manifest.parquet`` (one row per sample) and the tar files that it points into.

This format is all that ``archive`` (which writes it) and the loaders (which read it) share::

    NAME/
      dataset.json         DatasetInfo: what the dataset is, how it was made, its shards and their sizes
      manifest.parquet     SCHEMA: one row per sample; ``offset`` and ``size`` are of the payload inside the shard
      manifest.index       ManifestIndex: what is read of every row, for mapping; made of the manifest where it lacks
      {split}-{000000}.tar KEY.png|jpg|jp2|npy|b2nd, KEY.json, optional KEY.mask.png|b2nd
      quarantine.parquet   QUARANTINE: one row per rejected input
      foreground.parquet   FOREGROUND: of volumes with masks, some voxels of each class
      croissant.json       MLCommons Croissant description

``manifest.parquet`` is written last, so a folder that has one is complete.
"""

from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest.dataset import ShardedDataset
from dira_scale.dataset.manifest.info import DatasetInfo
from dira_scale.dataset.manifest.schema import (
    BOX,
    CHANNELS_VERSION,
    FORMAT_VERSION,
    INDEX_FILE,
    INFO_FILE,
    MANIFEST_FILE,
    QUARANTINE,
    QUARANTINE_FILE,
    SCHEMA,
    schema_of,
)

__all__ = [
    "BOX", "CHANNELS_VERSION", "FORMAT_VERSION", "INDEX_FILE", "INFO_FILE", "MANIFEST_FILE", "QUARANTINE",
    "QUARANTINE_FILE", "SCHEMA", "DatasetError", "DatasetInfo", "ShardedDataset", "schema_of",
]  # fmt: skip
