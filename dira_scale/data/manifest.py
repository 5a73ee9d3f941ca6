"""A sharded dataset: ``dataset.json``, ``manifest.parquet`` (one row per sample) and the tar files that it points into.

This is the one thing that ``ingest`` (which writes it) and the loaders (which read it) share::

    NAME/
      dataset.json         DatasetInfo: what this is, how it was made, which shards of which size
      manifest.parquet     SCHEMA: one row per sample; ``offset`` and ``size`` are of the payload inside the shard
      {split}-{000000}.tar KEY.png|jpg|jp2|npy, KEY.json, optional KEY.mask.png
      quarantine.parquet   QUARANTINE: one row per rejected input
      croissant.json       MLCommons Croissant description

``manifest.parquet`` is written last, so a folder that has one is complete.
"""

import hashlib
import json
import os
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale.errors import UserError

FORMAT_VERSION = 1
INFO_FILE, MANIFEST_FILE, QUARANTINE_FILE = "dataset.json", "manifest.parquet", "quarantine.parquet"

BOX = pa.struct([("label", pa.string()), *[(side, pa.float32()) for side in "yxhw"]])
SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # keyed hash of the source's name
        ("split", pa.string()),
        ("patient", pa.string()),  # keyed hash; all samples of a patient are in one split
        ("study", pa.string()),  # keyed hash
        ("shard", pa.string()),  # file name
        ("offset", pa.int64()),  # of the payload's first byte in the shard
        ("size", pa.int64()),  # bytes
        ("codec", pa.string()),  # png | jpg | jp2 | npy
        ("channels", pa.int8()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("depth", pa.int32()),  # 1 in 2D
        ("bits", pa.int8()),  # per stored channel: 8 | 16
        ("low", pa.float32()),  # the stored values that become 0 and 1
        ("high", pa.float32()),
        ("spacing", pa.list_(pa.float32())),  # mm in array order: y, x in 2D; z, y, x in 3D; null = unknown
        ("affine", pa.list_(pa.float32())),  # 3D: 16 values, row by row; null in 2D
        ("labels", pa.list_(pa.float32())),  # in the order of label_names; NaN = unknown
        ("boxes", pa.list_(BOX)),  # in stored pixels
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("mask_offset", pa.int64()),  # null = no mask
        ("mask_size", pa.int64()),
        ("xxh3", pa.string()),  # 64-bit xxHash3 of the payload, hex
    ]
)
# ``source`` is a keyed hash too: file names may name patients.
QUARANTINE = pa.schema([("source", pa.string()), ("stage", pa.string()), ("reason", pa.string())])


class DatasetError(UserError):
    """A sharded dataset is absent, of another version, incomplete or damaged."""


@dataclass(frozen=True)
class DatasetInfo:
    """The content of ``dataset.json``."""

    name: str
    modality: str
    dims: int  # 2 | 3
    codec: str
    label_names: list[str]
    counts: dict[str, int]  # samples per split
    quarantined: int
    shards: dict[str, int]  # file name -> bytes
    recipe: dict[str, Any]  # with ``hash_key``: tells which key was used without giving it away
    recipe_hash: str
    licence: str
    tool_version: str
    plan_hash: str = ""  # of what was planned: names (as keyed hashes), splits, labels
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "DatasetInfo":
        """Raises DatasetError when ``path`` is absent, not JSON, of another version or lacks a field."""
        if not path.exists():
            raise DatasetError(
                f"no sharded dataset at {path.parent}: {path.name} is missing; make one with "
                f"'python -m dira_scale.shard recipe=… out={path.parent}'"
            )
        try:
            content = json.loads(path.read_text())
            version = content["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is damaged ({type(error).__name__}: {error}): shard again") from error
        if version != FORMAT_VERSION:
            raise DatasetError(
                f"{path} has format version {version}, this dira_scale reads {FORMAT_VERSION}: "
                "shard again, or use the dira_scale that wrote it"
            )
        if missing := {field.name for field in fields(cls) if field.default is MISSING} - content.keys():
            raise DatasetError(f"{path} lacks {', '.join(sorted(missing))}: shard again")
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})


class ShardedDataset:
    """An opened sharded dataset. Reading is thread-safe.

    Attributes:
        root: the folder.
        info: what ``dataset.json`` says.
        table: the manifest, columns as in ``SCHEMA``; a row's number in it is what every method here means by "row".
    """

    def __init__(self, root: Path, info: DatasetInfo, table: pa.Table):
        self.root, self.info, self.table = root, info, table
        self._file = lru_cache(maxsize=256)(lambda shard: _OpenFile(root / shard))
        self._columns: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, path: str | Path) -> "ShardedDataset":
        """Open the dataset at ``path`` and check versions, columns, and every shard's presence and size.

        Raises DatasetError naming the file, what is wrong and what to do.
        """
        root = Path(path)
        info = DatasetInfo.read(root / INFO_FILE)
        manifest = root / MANIFEST_FILE
        if not manifest.exists():
            raise DatasetError(f"{manifest} is missing: the conversion was not finished; run its shard command again")
        try:
            table = pq.read_table(manifest, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise DatasetError(f"{manifest} cannot be read ({error}): shard again") from error
        if wrong := [field.name for field in SCHEMA if field not in table.schema]:
            raise DatasetError(f"{manifest}: columns missing or of another type: {', '.join(wrong)}; shard again")
        if table.num_rows != sum(info.counts.values()):
            raise DatasetError(
                f"{manifest} has {table.num_rows} rows, {INFO_FILE} counts "
                f"{sum(info.counts.values())} samples: they do not belong together; shard again"
            )
        for shard, size in info.shards.items():
            file = root / shard
            if not file.exists():
                raise DatasetError(f"shard {file} is missing: copy it again from where it was made, or shard again")
            if file.stat().st_size != size:
                raise DatasetError(
                    f"shard {file} has {file.stat().st_size} bytes instead of {size}: "
                    "copy it again from where it was made, or shard again"
                )
        return cls(root, info, table)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over key, split and xxh3 of all rows: the content's identity, whatever Parquet's bytes are."""
        rows = pc.binary_join_element_wise(self.table["key"], self.table["split"], self.table["xxh3"], " ")
        digest = hashlib.sha256()
        for row in rows:
            digest.update(row.as_buffer())
            digest.update(b"\n")
        return digest.hexdigest()

    @property
    def splits(self) -> list[str]:
        return list(self.info.counts)

    def rows(self, split: str) -> np.ndarray:
        """Row numbers (int64) of ``split``, in manifest order. Raises DatasetError when there is no such split."""
        if split not in self.info.counts:
            raise DatasetError(f"{self.root} has no split '{split}', only {', '.join(self.splits)}")
        return np.flatnonzero(pc.equal(self.table["split"], split).to_numpy())

    def column(self, name: str) -> np.ndarray:
        """One column of plain values [rows] (numbers or str); kept after the first call."""
        if name not in self._columns:
            self._columns[name] = self.table[name].to_numpy()
        return self._columns[name]

    @cached_property
    def _labels(self) -> np.ndarray:
        names, column = self.info.label_names, self.table["labels"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        if len(values) != len(column) * len(names):
            raise DatasetError(f"{self.root / MANIFEST_FILE}: rows do not have {len(names)} labels each; shard again")
        return values.reshape(len(column), len(names))

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Labels float32 [n, L] of ``rows``; NaN = unknown, columns in the order of ``info.label_names``."""
        return self._labels[rows]

    def read(self, row: int) -> bytes:
        """The encoded image of ``row``: one positioned read."""
        return self._read(row, "offset", "size")

    def read_mask(self, row: int) -> bytes | None:
        """The encoded (PNG) mask of ``row``, if it has one."""
        if not self.table["mask_size"][int(row)].is_valid:
            return None
        return self._read(row, "mask_offset", "mask_size")

    def _read(self, row: int, offset: str, size: str) -> bytes:
        shard, count = self.column("shard")[row], int(self.column(size)[row])
        file = self._file(shard)  # held while reading: another thread may push it out of the cache
        payload = os.pread(file.descriptor, count, int(self.column(offset)[row]))
        if len(payload) != count:
            raise DatasetError(f"shard {self.root / shard} ends inside sample {self.column('key')[row]}: copy it again")
        return payload


class _OpenFile:
    """A file descriptor, closed when the last user lets go of it (also when it falls out of the cache meanwhile)."""

    def __init__(self, path: Path):
        self.descriptor = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        os.close(self.descriptor)
