"""An open dataset: its rows, and the bytes that they point to."""

import hashlib
import os
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale.data.codecs import decode, open_bricks
from dira_scale.data.manifest.checks import wrong_rows
from dira_scale.data.manifest.info import DatasetInfo
from dira_scale.data.manifest.schema import INFO_FILE, MANIFEST_FILE, SCHEMA, DatasetError
from dira_scale.places.store import as_os_error, is_local, locate, open_file


class ShardedDataset:
    """An open sharded dataset. Reading is thread-safe.

    Attributes:
        root: the folder, or the prefix in a store (``s3://…``).
        info: the content of ``dataset.json``.
        table: the manifest, columns as in ``SCHEMA``; "row" below is a row number in it.
    """

    def __init__(self, root: Path, info: DatasetInfo, table: pa.Table):
        self.root, self.info, self.table = root, info, table
        self._opened = lru_cache(maxsize=256)(lambda shard: _OpenFile(self.file(shard)))
        self._columns: dict[str, np.ndarray] = {}
        self._codes: dict[str, tuple[np.ndarray, list[str]]] = {}

    @classmethod
    def open(cls, path: str | Path, check_shards: bool = True) -> "ShardedDataset":
        """Open the dataset at ``path``; check versions, columns and (``check_shards``) every shard's presence and size.

        Raises DatasetError naming the file, what is wrong and what to do.
        """
        root = locate(path, "path")
        info = DatasetInfo.read(root / INFO_FILE)
        manifest = root / MANIFEST_FILE
        if not manifest.exists():
            raise DatasetError(
                f"{manifest} is missing: the conversion did not finish, or the file was lost; shard again"
            )
        try:
            if is_local(manifest):
                table = pq.read_table(manifest, memory_map=True)
            else:
                with open_file(manifest) as stream:
                    table = pq.read_table(stream)
        except (pa.ArrowException, OSError) as error:
            first_line = str(error).splitlines()[0]
            raise DatasetError(f"{manifest} cannot be read ({first_line}): shard again") from error
        if wrong := [field.name for field in SCHEMA if field not in table.schema]:
            raise DatasetError(f"{manifest}: columns missing or of the wrong type: {', '.join(wrong)}; shard again")
        if table.num_rows != sum(info.counts.values()):
            raise DatasetError(
                f"{manifest} has {table.num_rows} rows, but {INFO_FILE} counts "
                f"{sum(info.counts.values())} samples: the files do not belong together; shard again"
            )
        if reason := wrong_rows(table, info.dims, info.counts, info.shards):
            raise DatasetError(f"{manifest} is damaged ({reason}): copy it again from its origin, or shard again")
        dataset = cls(root, info, table)
        for shard, size in info.shards.items() if check_shards else ():
            file = dataset.file(shard)
            if not file.is_file():
                raise DatasetError(f"shard {file} is missing: copy it again from its origin, or shard again")
            if file.stat().st_size != size:
                raise DatasetError(
                    f"shard {file} has {file.stat().st_size} bytes instead of {size}: "
                    "copy it again from its origin, or shard again"
                )
        return dataset

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardedDataset.open, (str(self.root), False)

    def file(self, shard: str) -> Path:
        """Path of a shard: in the dataset's own folder, or (for a subset or a merged dataset) in one beside it."""
        place = self.root
        for part in shard.split("/"):  # stores do not resolve ".."
            place = place.parent if part == ".." and not is_local(place) else place / part
        return place

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over key, split and xxh3 of all rows: identifies the content whatever Parquet's bytes."""
        rows = pc.binary_join_element_wise(self.table["key"], self.table["split"], self.table["xxh3"], " ")
        digest = hashlib.sha256()
        for row in rows:
            digest.update(row.as_buffer())
            digest.update(b"\n")
        return digest.hexdigest()

    @property
    def splits(self) -> list[str]:
        return list(self.info.counts)

    def require_images(self, reader: str) -> None:
        """Raise DatasetError if this holds volumes, which ``reader`` ("probing", "this loader" …) cannot read."""
        if self.info.dims != 2:
            raise DatasetError(
                f"data.shards={self.root} holds volumes (dims {self.info.dims}); {reader} reads 2D images only. Shard "
                "the volumes again with recipe.slices=axial and another out, which stores their slices "
                "(docs/how-to/volumes.md)"
            )

    def rows(self, split: str) -> np.ndarray:
        """Row numbers (int64) of ``split``, in manifest order. Raises DatasetError if there is no such split."""
        if split not in self.info.counts:
            raise DatasetError(f"{self.root} has no split '{split}', only {', '.join(self.splits)}")
        return np.flatnonzero(pc.equal(self.table["split"], split).to_numpy())

    def column(self, name: str) -> np.ndarray:
        """One column of plain values [rows] (numbers or str); cached."""
        if name not in self._columns:
            self._columns[name] = self.table[name].to_numpy()
        return self._columns[name]

    def codes(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A column of text that repeats (``codec``, ``shard``): per row a number [rows], and the words."""
        if name not in self._codes:
            coded = self.table[name].combine_chunks().dictionary_encode()
            self._codes[name] = coded.indices.to_numpy(), coded.dictionary.to_pylist()
        return self._codes[name]

    def cell(self, name: str, row: int) -> Any:
        """One value of any column."""
        return self.table[name][int(row)].as_py()

    @cached_property
    def checksums(self) -> np.ndarray:
        """The payloads' 64-bit xxHash3, uint64 [rows]."""
        return np.array([int(checksum, 16) for checksum in self.table["xxh3"].to_pylist()], np.uint64)

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

    def shape(self, row: int) -> tuple[int, ...]:
        """[H, W] or [H, W, C] of an image, [Z, Y, X] or [C, Z, Y, X] of a volume: what its payload must hold."""
        height, width, channels = (int(self.column(name)[row]) for name in ("height", "width", "channels"))
        if self.info.dims == 2:
            return (height, width) if channels == 1 else (height, width, channels)
        volume = (int(self.column("depth")[row]), height, width)
        return volume if channels == 1 else (channels, *volume)

    def read(self, row: int) -> bytes:
        """The encoded image of ``row``, by one positioned read."""
        return self._read(row, "offset", "size")

    def read_mask(self, row: int) -> bytes | None:
        """The encoded (PNG) mask of ``row``; None without one."""
        if not self.table["mask_size"][int(row)].is_valid:
            return None
        return self._read(row, "mask_offset", "mask_size")

    def voxels(self, row: int) -> Any:
        """The volume of ``row``, [Z, Y, X] or [C, Z, Y, X]; slicing a local b2nd reads only the bricks needed."""
        shard, codec = self.file(self.column("shard")[row]), self.column("codec")[row]
        if codec == "b2nd" and is_local(shard):
            return open_bricks(shard, int(self.column("offset")[row]))
        return decode(self.read(row), codec, self.shape(row))

    def _read(self, row: int, offset: str, size: str) -> bytes:
        shard, count = self.column("shard")[row], int(self.column(size)[row])
        file = self._opened(shard)  # keep a reference while reading: another thread may evict it from the cache
        payload = file.read(count, int(self.column(offset)[row]))
        if len(payload) != count:
            raise DatasetError(f"shard {self.file(shard)} ends inside sample {self.column('key')[row]}: copy it again")
        return payload


class _OpenFile:
    """A file descriptor, closed with its last reference, even after eviction from the cache. In a store nothing is
    open: each read is a request."""

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY) if is_local(path) else None

    def read(self, count: int, offset: int) -> bytes:
        """``count`` bytes at ``offset``, or fewer at the file's end."""
        if self.descriptor is not None:
            return os.pread(self.descriptor, count, offset)
        with as_os_error(self.path):
            part: bytes = self.path.fs.cat_file(self.path.path, start=offset, end=offset + count)  # type: ignore[attr-defined]
        return part

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
