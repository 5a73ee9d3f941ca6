"""A sharded dataset: ``dataset.json``, ``manifest.parquet`` (one row per sample) and the tar files that it points into.

This is the one thing that ``ingest`` (which writes it) and the loaders (which read it) share::

    NAME/
      dataset.json         DatasetInfo: what this is, how it was made, which shards of which size
      manifest.parquet     SCHEMA: one row per sample; ``offset`` and ``size`` are of the payload inside the shard
      {split}-{000000}.tar KEY.png|jpg|jp2|npy|b2nd, KEY.json, optional KEY.mask.png|b2nd
      quarantine.parquet   QUARANTINE: one row per rejected input
      croissant.json       MLCommons Croissant description

``manifest.parquet`` is written last, so a folder that has one is complete.
"""

import hashlib
import json
import os
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dira_scale.data.codecs import CODECS, decode, open_bricks
from dira_scale.errors import UserError
from dira_scale.store import is_local, locate, opened, refusals

FORMAT_VERSION = 2  # 1 had boxes without z and d
INFO_FILE, MANIFEST_FILE, QUARANTINE_FILE = "dataset.json", "manifest.parquet", "quarantine.parquet"
SHARD = re.compile(r"(?:[^/\0]{1,255}/)*[^/\0]{1,250}\.(?:tar|beton)")  # relative to the dataset's folder

BOX = pa.struct([("label", pa.string()), *[(side, pa.float32()) for side in "yxhwzd"]])  # in 2D z = 0, d = 1
SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # keyed hash of the source's name
        ("split", pa.string()),
        ("patient", pa.string()),  # keyed hash; all samples of a patient are in one split
        ("study", pa.string()),  # keyed hash
        ("shard", pa.string()),  # file name
        ("offset", pa.int64()),  # of the payload's first byte in the shard
        ("size", pa.int64()),  # bytes
        ("codec", pa.string()),  # 2D: png | jpg | jp2 | npy; 3D: b2nd | npy
        ("channels", pa.int8()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("depth", pa.int32()),  # 1 in 2D
        ("bits", pa.int8()),  # per stored channel: 8 | 16
        ("low", pa.float32()),  # the stored values that become 0 and 1
        ("high", pa.float32()),
        ("spacing", pa.list_(pa.float32())),  # mm in array order: y, x in 2D; z, y, x in 3D; null = unknown
        ("affine", pa.list_(pa.float32())),  # 3D: NIfTI's, 4 x 4 row by row: (x, y, z) index -> RAS+ mm; null in 2D
        ("labels", pa.list_(pa.float32())),  # in the order of label_names; NaN = unknown
        ("boxes", pa.list_(BOX)),  # in stored pixels or voxels
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
    betons: dict[str, int] = field(default_factory=dict)  # FFCV's form of the same samples, where made: name -> bytes
    plan_hash: str = ""  # of what was planned: names (as keyed hashes), splits, labels
    checksums: dict[str, str] = field(default_factory=dict)  # file name -> 64-bit xxHash3 of the whole shard, hex
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
        except (ValueError, KeyError, TypeError, RecursionError, IsADirectoryError) as error:
            raise DatasetError(f"{path} is damaged ({type(error).__name__}: {error}): shard again") from error
        if version != FORMAT_VERSION:
            raise DatasetError(
                f"{path} has format version {version}, this dira_scale reads {FORMAT_VERSION}: "
                "shard again, or use the dira_scale that wrote it"
            )
        needed = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}
        if missing := needed - content.keys():
            raise DatasetError(f"{path} lacks {', '.join(sorted(missing))}: shard again")
        info = cls(**{f.name: content[f.name] for f in fields(cls) if f.name in content})
        if wrong := info._wrong():
            raise DatasetError(f"{path} is damaged ({wrong} is not what it must be): shard again")
        return info

    def _wrong(self) -> str | None:
        """The first field that holds something else than it may: the file may come from anybody."""
        for name in ("name", "modality", "codec", "recipe_hash", "licence", "tool_version", "plan_hash"):
            if not isinstance(getattr(self, name), str):
                return name
        for name, kind in (("counts", int), ("shards", int), ("betons", int), ("checksums", str)):
            entries = getattr(self, name)
            if not isinstance(entries, dict) or not all(type(value) is kind for value in entries.values()):
                return name
        for names in (
            self.shards,
            self.betons,
        ):  # a subset's lie in another folder, never at a place of their own choice
            if strange := [shard for shard in names if not SHARD.fullmatch(shard)]:
                return f"shard {strange[0][:60]!r}"
        if not isinstance(self.label_names, list) or not all(isinstance(label, str) for label in self.label_names):
            return "label_names"
        for text in (self.name, self.modality, self.codec, self.licence, *self.label_names, *self.counts):
            if len(text) > 1000 or not all(letter.isprintable() for letter in text):  # it would speak to the terminal
                return "a text in it"
        if not isinstance(self.recipe, dict):
            return "recipe"
        return next((n for n in ("dims", "quarantined") if type(getattr(self, n)) is not int), None)


class ShardedDataset:
    """An opened sharded dataset. Reading is thread-safe.

    Attributes:
        root: the folder, or the prefix of a store (``s3://…``).
        info: what ``dataset.json`` says.
        table: the manifest, columns as in ``SCHEMA``; a row's number in it is what every method here means by "row".
    """

    def __init__(self, root: Path, info: DatasetInfo, table: pa.Table):
        self.root, self.info, self.table = root, info, table
        self._opened = lru_cache(maxsize=256)(lambda shard: _OpenFile(self.file(shard)))
        self._columns: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, path: str | Path, whole: bool = True) -> "ShardedDataset":
        """Open the dataset at ``path`` and check versions, columns, and (``whole``) every shard's presence and size.

        Raises DatasetError naming the file, what is wrong and what to do.
        """
        root = locate(path, "path")
        info = DatasetInfo.read(root / INFO_FILE)
        manifest = root / MANIFEST_FILE
        if not manifest.exists():
            raise DatasetError(f"{manifest} is missing: the conversion was not finished; run its shard command again")
        try:
            if is_local(manifest):
                table = pq.read_table(manifest, memory_map=True)
            else:
                with opened(manifest) as stream:
                    table = pq.read_table(stream)
        except (pa.ArrowException, OSError) as error:
            first = str(error).splitlines()[0]
            raise DatasetError(f"{manifest} cannot be read ({first}): shard again") from error
        if wrong := [field.name for field in SCHEMA if field not in table.schema]:
            raise DatasetError(f"{manifest}: columns missing or of another type: {', '.join(wrong)}; shard again")
        if table.num_rows != sum(info.counts.values()):
            raise DatasetError(
                f"{manifest} has {table.num_rows} rows, {INFO_FILE} counts "
                f"{sum(info.counts.values())} samples: they do not belong together; shard again"
            )
        if reason := _wrong(table, info):
            raise DatasetError(
                f"{manifest} is damaged ({reason}): copy it again from where it was made, or shard again"
            )
        dataset = cls(root, info, table)
        for shard, size in info.shards.items() if whole else ():
            file = dataset.file(shard)
            if not file.is_file():
                raise DatasetError(f"shard {file} is missing: copy it again from where it was made, or shard again")
            if file.stat().st_size != size:
                raise DatasetError(
                    f"shard {file} has {file.stat().st_size} bytes instead of {size}: "
                    "copy it again from where it was made, or shard again"
                )
        return dataset

    def file(self, shard: str) -> Path:
        """Where a shard lies: in the dataset's own folder, or (of a subset or a merged dataset) beside it."""
        place = self.root
        for part in shard.split("/"):  # a store knows no ".."
            place = place.parent if part == ".." and not is_local(place) else place / part
        return place

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

    def voxels(self, row: int) -> Any:
        """The volume of ``row``, [Z, Y, X] or [C, Z, Y, X]: of a b2nd a slice of it reads only its bricks."""
        shard, codec = self.file(self.column("shard")[row]), self.column("codec")[row]
        if codec == "b2nd" and is_local(shard):
            return open_bricks(shard, int(self.column("offset")[row]))
        return decode(self.read(row), codec)

    def _read(self, row: int, offset: str, size: str) -> bytes:
        shard, count = self.column("shard")[row], int(self.column(size)[row])
        file = self._opened(shard)  # held while reading: another thread may push it out of the cache
        payload = file.read(count, int(self.column(offset)[row]))
        if len(payload) != count:
            raise DatasetError(f"shard {self.file(shard)} ends inside sample {self.column('key')[row]}: copy it again")
        return payload


def _wrong(table: pa.Table, info: DatasetInfo) -> str | None:
    """What of a manifest points to nowhere: it may come from anybody."""
    for name in ("key", "split", "patient", "shard", "offset", "size", "codec", "low", "high", "labels", "xxh3"):
        if table[name].null_count:
            return f"rows without {name}"
    if table["affine"].null_count != (table.num_rows if info.dims == 2 else 0):
        return f"samples of other dimensions than {info.dims}"
    if table.num_rows and not pc.all(pc.and_(pc.is_finite(table["low"]), pc.is_finite(table["high"]))).as_py():
        return "low and high that are no numbers"
    if strange := set(pc.unique(table["codec"]).to_pylist()) - CODECS.keys():
        return f"codec {strange.pop()[:60]!r} is unknown"
    if strange := set(pc.unique(table["split"]).to_pylist()) - info.counts.keys():
        return f"split {strange.pop()[:60]!r} is not in {INFO_FILE}"
    for offset, size in (("offset", "size"), ("mask_offset", "mask_size")):
        ends = table.select(["shard", offset, size]).append_column("end", pc.add(table[offset], table[size]))
        reached = ends.group_by("shard").aggregate([("end", "max"), (offset, "min"), (size, "min")])
        for row in reached.to_pylist():
            if row["shard"] not in info.shards:
                return f"shard {row['shard'][:60]!r} is not in {INFO_FILE}"
            if row["end_max"] is None:  # no masks
                continue
            if min(row[f"{offset}_min"], row[f"{size}_min"]) < 0 or row["end_max"] > info.shards[row["shard"]]:
                return f"samples outside shard {row['shard']}"
    return None


class _OpenFile:
    """A file descriptor, closed when the last user lets go of it (also when it falls out of the cache meanwhile); of a
    store nothing is open: each read is a request."""

    def __init__(self, path: Path):
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY) if is_local(path) else None

    def read(self, count: int, offset: int) -> bytes:
        """``count`` bytes at ``offset``, or fewer where the file ends."""
        if self.descriptor is not None:
            return os.pread(self.descriptor, count, offset)
        with refusals(self.path):
            part: bytes = self.path.fs.cat_file(self.path.path, start=offset, end=offset + count)  # type: ignore[attr-defined]
        return part

    def __del__(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
