"""An open dataset: its rows, and the bytes that they point to."""

import resource
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dira_scale.base.errors import DatasetError, DimensionsError
from dira_scale.base.storage.store import is_local, locate
from dira_scale.dataset.manifest.index import CODEC_NAMES, NO_MASK, SIDES, Codes, ManifestIndex, PayloadKind, numbers
from dira_scale.dataset.manifest.index_files import index_of
from dira_scale.dataset.manifest.info import DatasetInfo, as_flags
from dira_scale.dataset.manifest.parquet import ROWS, ManifestFile
from dira_scale.dataset.manifest.schema import INFO_FILE, MANIFEST_FILE
from dira_scale.dataset.manifest.shard_file import ShardFile, require_shard
from dira_scale.dataset.pixels.arena import Allocate
from dira_scale.dataset.pixels.bricks import BrickError, Bricks
from dira_scale.dataset.pixels.codecs import DecodeError, decode

ReadInto = Callable[[memoryview, int], int]  # fills a buffer from an offset; returns how many bytes it got
CHECKSUM = "checksum differs from the manifest's"
LOOKED_AT = 256  # masks, for the values in them


class ShardedDataset:
    """An open sharded dataset. Reading is thread-safe.

    What loaders need of every row is in ``index``, of a large dataset mapped from a file. All else is read from the
    manifest when it is asked for.

    Attributes:
        root: the folder, or the prefix in a store (``s3://…``).
        info: the content of ``dataset.json``.
        manifest: the file of rows; "row" below is a row number in it.
        index: of its rows.
        numbers: the columns of numbers that it has.
    """

    def __init__(self, root: Path, info: DatasetInfo, manifest: ManifestFile, index: ManifestIndex):
        self.root, self.info, self.manifest, self.index = root, info, manifest, index
        self.numbers = numbers(info.dims)
        # Opening a shard again is a request to the server of a network file system.
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most_open = max(256, soft // 8)  # shards
        self._opened = lru_cache(maxsize=self.most_open)(lambda shard: ShardFile(self.file(shard)))
        self._columns: dict[str, np.ndarray] = {}

    @classmethod
    def open(cls, path: str | Path, check_shards: bool | tuple[int, int] = True) -> "ShardedDataset":
        """Open the dataset at ``path``; check versions, the index and (``check_shards``) every shard's presence and
        size, or those of one of several ranks: (rank, ranks).

        Raises DatasetError naming the file, what is wrong and what to do.
        """
        root = locate(path, "path")
        info = DatasetInfo.read(root / INFO_FILE)
        manifest = ManifestFile(root / MANIFEST_FILE, info)
        dataset = cls(root, info, manifest, index_of(manifest, info))
        first, step = check_shards if isinstance(check_shards, tuple) else (0, 1)
        for shard, size in islice(info.shards.items(), first, None, step) if check_shards else ():
            require_shard(dataset.file(shard), size)
        return dataset

    def __reduce__(self) -> tuple[Any, ...]:
        return ShardedDataset.open, (str(self.root), False)

    def file(self, shard: str) -> Path:
        """Return the path of a shard: in the dataset's own folder, or (for a subset or a merged dataset) in one beside
        it."""
        path = self.root
        for part in shard.split("/"):  # stores do not resolve ".."
            path = path.parent if part == ".." and not is_local(path) else path / part
        return path

    @cached_property
    def table(self) -> pa.Table:
        """Return the whole manifest in memory, columns as in ``info.schema``."""
        return self.manifest.table()

    @property
    def hash(self) -> str:
        """SHA-256 (hex) over key, split and xxh3 of all rows: identifies the content whatever Parquet's bytes."""
        return self.index.hash

    @property
    def identity(self) -> str:
        """Return what differs for every other dataset, and for this one after a change to any column."""
        return f"{self.manifest.identity} {self.info.described([*self.info.classes.items()])}"

    @property
    def splits(self) -> list[str]:
        return list(self.info.counts)

    def require(self, dimensions: int, reader: str) -> None:
        """Raise DimensionsError unless this holds images (2) or volumes (3), as ``reader`` ("probing" …) needs."""
        if self.info.dims == dimensions:
            return
        if dimensions == 2:
            raise DimensionsError(f"{self.root} holds volumes, and {reader} reads images", lacks="images")
        raise DimensionsError(f"{self.root} holds images, and {reader} reads volumes", lacks="volumes")

    def require_channels(
        self, splits: Sequence[str], takes: int, names: Sequence[str], reader: str, colour: bool = False
    ) -> None:
        """Raise DatasetError unless ``reader``, which takes so many channels, takes the images of ``splits``: they have
        as many, of the ``names`` that it has learned, if these are known; or else one, which it repeats, unless it has
        learned from images in ``colour``."""
        repeats = not (names or colour)
        stored = {kind.channels for split in splits for kind in self.kinds(split)}
        if other := sorted(stored - {1 if repeats else takes, takes}):
            raise DatasetError(
                f"{self.root} has images of {other[0]} channels, and {reader} takes "
                f"{'1 or ' * repeats}{takes}: name a dataset of such images"
            )
        if names and self.info.channels and [*names] != self.info.channels:
            raise DatasetError(
                f"{self.root} has the channels {', '.join(self.info.channels)}, and {reader} has learned "
                f"{', '.join(names)}: shard again with these, in this order"
            )

    def rows(self, split: str) -> np.ndarray:
        """Return row numbers (int64) of ``split``, in manifest order. Raises DatasetError if there is no such split."""
        if split not in self.info.counts:
            raise DatasetError(f"{self.root} has no split '{split}', only {', '.join(self.splits)}")
        first = sum(self.info.counts[before] for before in self.splits[: self.splits.index(split)])
        return self.index.by_split[first : first + self.info.counts[split]]

    def kinds(self, split: str) -> list[PayloadKind]:
        """Return the codecs, numbers of channels and depths that the images of ``split`` have."""
        return self.index.kinds[split]

    def column(self, name: str) -> np.ndarray:
        """Return one column of plain values [rows] (numbers or str); of several channels ``low`` and ``high`` are
        [rows, C].

        A view of the index where it has them, else cached.
        """
        if name in self.numbers:
            return self.index.records[name]
        if name not in self._columns:
            if name in self._words:
                codes, words = self.codes(name)
                self._columns[name] = np.array(words, object)[codes]
            elif name == "patient":
                self._columns[name] = self.patients.names.array().to_numpy(zero_copy_only=False)[self.patients.codes]
            else:
                self._columns[name] = self.manifest.table([name])[name].to_numpy()
        return self._columns[name]

    @property
    def patients(self) -> Codes:
        """Return the patient of each row."""
        return self.index.patients

    def patients_in(self, keys: pa.LargeStringArray) -> np.ndarray:
        """Return which of the patients, by their numbers, have one of the ``keys``, bool [P]."""
        return np.asarray(pc.is_in(self.patients.names.array(), value_set=keys).to_numpy(zero_copy_only=False))

    @property
    def studies(self) -> Codes:
        """Return the study of each row, if it is known."""
        return self.index.studies

    def rows_in(self, shard: str) -> np.ndarray:
        """Return the row numbers of the samples in ``shard``, int64."""
        number = [*self.info.shards].index(shard)
        first, count = self.index.spans[number].tolist()
        rows = np.arange(first, first + count)
        if first < 0 or (self.index.records["shard"][rows] != number).any():
            rows = np.flatnonzero(self.index.records["shard"] == number)
        return rows

    def range(self, rows: Any, window: Sequence[float] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return the stored values that become 0 and 1, float32: [n] of ``rows`` [n], or [n, C] of several channels.

        They are each image's own, or ``window``; NaN = a channel that the sample lacks.
        """
        low, high = self.column("low")[rows], self.column("high")[rows]
        if window is None:
            return low, high
        low, high = (np.where(np.isnan(low), low, np.float32(end)) for end in window)
        return low, high

    def shown(self, row: int) -> tuple[int, float, float]:
        """Return the channel that pictures show, the first that the sample of ``row`` has, and its values of 0 and
        1."""
        low, high = map(np.atleast_1d, self.range(row))
        channel = int(np.argmin(np.isnan(low)))
        return channel, float(low[channel]), float(high[channel])

    def codes(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Return a column of text that repeats (``codec``, ``shard``): per row a number [rows], and the words."""
        return self.index.records[name], self._words[name]

    @cached_property
    def _words(self) -> dict[str, list[str]]:
        return {"codec": CODEC_NAMES, "shard": list(self.info.shards)}

    def cell(self, name: str, row: int) -> Any:
        if name in self.numbers:
            return self.index.records[name][row].tolist()
        if name in self._words:
            return self._words[name][self.index.records[name][row]]
        return self.manifest.cell(name, int(row))

    @cached_property
    def spacing(self) -> np.ndarray:
        """Millimetres between pixels along each axis, in their array's order: float64 [rows, n]; NaN = unknown."""
        result, start = np.empty((len(self.index.records), self.info.dims)), 0
        for batch in self.manifest.batches(["spacing"]):
            sides = [pc.list_element(batch["spacing"], axis).to_numpy() for axis in range(self.info.dims)]
            result[start : start + len(batch)] = np.stack(sides, 1)
            start += len(batch)
        return result

    @property
    def checksums(self) -> np.ndarray:
        """Return the payloads' 64-bit xxHash3, uint64 [rows]."""
        return self.index.records["xxh3"]

    @cached_property
    def number_labels(self) -> tuple[str, ...]:
        """Return the labels that are numbers: some sample has another value than 0, 1 and -1, which is no class."""
        values, other = self.index.records["labels"], np.zeros(len(self.info.label_names), bool)
        for first in range(0, len(values), ROWS):
            part = values[first : first + ROWS]
            other |= (~np.isnan(part) & ~np.isin(part, (0, 1, -1))).any(0)
        named = zip(self.info.label_names, other, strict=True)
        return tuple(name for name, is_one in named if is_one and name not in self.info.classes)

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Labels float32 [n, L] of ``rows``; NaN = unknown, columns in the order of ``info.label_names``."""
        return self.index.records["labels"][rows]

    def flags(self, rows: np.ndarray) -> np.ndarray:
        """Labels as yes and no, float32 [n, F] in the order of ``info.flags``; NaN = unknown, -1 = uncertain."""
        return as_flags(self.labels(rows), self.info.flags)

    def sides(self, row: int) -> tuple[int, ...]:
        """[H, W] of an image, [Z, Y, X] of a volume: what its mask must hold."""
        return tuple(int(self.column(name)[row]) for name in SIDES[self.info.dims])

    def shape(self, row: int) -> tuple[int, ...]:
        """[H, W] or [H, W, C] of an image, [Z, Y, X] or [C, Z, Y, X] of a volume: what its payload must hold."""
        sides = self.sides(row)
        channels = int(self.column("channels")[row])
        if channels == 1:
            return sides
        return (*sides, channels) if self.info.dims == 2 else (channels, *sides)

    def read(self, row: int) -> bytes:
        """Return the encoded image of ``row``, by one positioned read. Raises DatasetError unless its checksum is the
        manifest's."""
        payload = self._read(row, "offset", "size")
        if xxhash.xxh3_64_intdigest(payload) != self.checksums[row]:
            raise self.damaged(row, CHECKSUM)
        return payload

    def read_into(self, row: int, new: Allocate) -> memoryview:
        """Read a row's bytes as ``read`` does, into memory that ``new`` makes."""
        record = self.index.records[row]
        payload = new((int(record["size"]),), np.uint8).data
        if self._file(row).read_into(payload, int(record["offset"])) != len(payload):
            raise self._cut_short(row)
        return payload

    def reader(self, row: int) -> ReadInto:
        """Fills a buffer from an offset in the shard of ``row``; returns how many bytes it got."""
        return self._file(row).read_into

    def read_mask(self, row: int) -> bytes | None:
        """Return the encoded mask of ``row``, PNG of an image, b2nd of a volume; None without one."""
        return self._read(row, "mask_offset", "mask_size") if self.has_mask(row) else None

    def has_mask(self, rows: Any) -> Any:
        """Return whether a row, or each of several rows [n], has a mask."""
        return self.index.records["mask_size"][rows] != NO_MASK

    def mask(self, row: int) -> np.ndarray | None:
        """Return the values of a mask, uint8 [H, W] or [Z, Y, X]; None without one. Raises DatasetError for a damaged
        one."""
        if not self.has_mask(row):
            return None
        sides = self.sides(row)
        try:
            if self.info.dims == 2:
                return decode(self._read(row, "mask_offset", "mask_size"), "png", sides)
            return self.bricks(row, mask=True).cut([tuple(slice(0, side) for side in sides)])[0][0]
        except (OSError, BrickError, DecodeError) as error:
            raise self.damaged(row, error, mask=True) from error

    def mask_values(self, rows: np.ndarray) -> tuple[set[int], int]:
        """Return the values above 0 in some masks of ``rows``, spread over them, and in how many."""
        masked = rows[self.has_mask(rows)]
        some = masked[np.unique(np.linspace(0, len(masked) - 1, min(LOOKED_AT, len(masked))).astype(int))]
        values = [np.unique(mask) for row in some.tolist() if (mask := self.mask(row)) is not None]
        return {int(value) for part in values for value in part} - {0}, len(values)

    @property
    def codecs(self) -> set[str]:
        return {kind.codec for kinds in self.index.kinds.values() for kind in kinds}

    def bricks(self, row: int, mask: bool = False, read_into: ReadInto | None = None) -> Bricks:
        """Return the bricks of a volume, or of its mask; ``read_into``: instead of the shard's own :meth:`reader`."""
        record, read = self.index.records[row], read_into or self.reader(row)
        first, size = (int(record[f"mask_{name}" if mask else name]) for name in ("offset", "size"))

        def fetch(start: int, buffer: memoryview) -> None:
            if start + len(buffer) > size or read(buffer, first + start) != len(buffer):
                raise BrickError("the shard, or its row in the manifest, ends inside it")

        kind = np.dtype(np.uint8 if mask else np.int16)
        return Bricks(self.sides(row) if mask else self.shape(row), kind, size, fetch)

    def pixels(self, row: int) -> np.ndarray:
        """Return an image, [H, W] or [H, W, C]; a volume that is not in bricks. Raises DatasetError for a damaged
        one."""
        try:
            return decode(self.read(row), self.cell("codec", row), self.shape(row))
        except DecodeError as error:
            raise self.damaged(row, error) from error

    def voxels(self, row: int, depths: slice = slice(None)) -> np.ndarray:
        """Return the slices ``depths`` of a volume, [Z, Y, X] or [C, Z, Y, X]; of one in bricks, from those that have
        them, each checked. Raises DatasetError for a damaged one."""
        if self.cell("codec", row) != "b2nd":
            return self.pixels(row)[..., depths, :, :]
        shape = self.shape(row)
        part = slice(*depths.indices(shape[-3])[:2]), slice(0, shape[-2]), slice(0, shape[-1])
        try:
            voxels = self.bricks(row).cut([part])[0]
        except (BrickError, DecodeError) as error:
            raise self.damaged(row, error) from error
        return voxels if len(shape) == 4 else voxels[0]

    def picture(self, row: int, depth: int | None = None) -> np.ndarray:
        """float32 [H, W] in [0, 1] as in training, [H, W, 3] in colour; of a volume an axial slice, by default the
        middle one: of several channels those that it has, side by side."""
        if self.info.dims == 3:
            depth = self.sides(row)[0] // 2 if depth is None else depth
            planes = self.voxels(row, slice(depth, depth + 1))
            middle = planes.reshape(-1, *planes.shape[-2:])
        else:
            pixels = self.pixels(row)
            middle = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]
        low, high = (np.broadcast_to(end, len(middle))[:, None, None] for end in self.range(row))
        scaled = np.clip((np.asarray(middle, np.float32) - low) / (high - low), 0, 1)
        if self.info.dims == 2 and len(scaled) > 1:
            return np.moveaxis(scaled, 0, -1)
        return np.concatenate(scaled[~np.isnan(low[:, 0, 0])], axis=1)

    def damaged(self, row: int, cause: Exception | str, mask: bool = False) -> DatasetError:
        """Return the error that says where a sample, or its ``mask``, lies that cannot be read."""
        where = f"shard {self.cell('shard', row)}, offset {self.cell('mask_offset' if mask else 'offset', row)}"
        return DatasetError(
            f"{self.root}: sample {self.cell('key', row)} ({where}) cannot be read: {'its mask: ' * mask}{cause}; "
            "copy the shard again from its origin, or shard again (shard verify lists all damage)"
        )

    def _read(self, row: int, offset: str, size: str) -> bytes:
        record = self.index.records[row]
        count, file = int(record[size]), self._file(row)
        payload = file.read(count, int(record[offset]))
        if len(payload) != count:
            raise self._cut_short(row)
        return payload

    def _file(self, row: int) -> ShardFile:
        """Keep a reference while reading: another thread may evict it from the cache."""
        return self._opened(self.cell("shard", row))

    def _cut_short(self, row: int) -> DatasetError:
        shard = self.file(self.cell("shard", row))
        return DatasetError(f"shard {shard} ends inside sample {self.cell('key', row)}: copy it again")
