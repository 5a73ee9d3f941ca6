"""The images of a dataset's ``.beton``, read as its manifest says."""

import os

import numpy as np
import xxhash

from dira_scale.data.beton import JPEG, RAW, BetonError, ImageField, Reader
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.storage.store import is_local


class BetonImages:
    """The images of a split's ``.beton``, by their row in the manifest. Reading is thread-safe.

    They are read, not mapped into memory as in FFCV: there a file that is cut short ends the process.
    Raises UserError unless it holds exactly the samples of the manifest.
    """

    def __init__(self, dataset: ShardedDataset, split: str) -> None:
        self.dataset, self.path = dataset, dataset.root / f"{split}.beton"
        self.again = f"run python -m dira_scale.shard convert path={dataset.root} to=ffcv"
        size = dataset.info.betons.get(self.path.name)
        if size is None or not is_local(self.path):
            raise UserError(
                f"data.loader=ffcv: {dataset.root} has no {self.path.name} on this machine's disks: {self.again} (a "
                "subset or a merged dataset gets its own), or use data.loader=cpu"
            )
        try:
            self.file = self.path.open("rb")
            if (actual := self.path.stat().st_size) != size:
                raise BetonError(f"{actual} bytes instead of {size}")
            reader, rows = Reader(self.path), dataset.rows(split)
            self.entries, self.sizes = self._entries(reader, rows)
        except (ValueError, TypeError, OSError) as error:  # BetonError, or what NumPy says of a damaged header
            raise self._wrong("not usable", error) from error
        self.first = int(rows[0])
        self.position = np.full(int(rows[-1]) - self.first + 1, -1)
        self.position[rows - self.first] = np.arange(len(rows))

    def _entries(self, reader: Reader, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per sample FFCV's metadata of its image, and how many bytes that takes."""
        names = list(reader.fields)
        if not isinstance(reader.fields.get("image"), ImageField) or "index" not in names:
            raise BetonError("no fields 'image' and 'index'")
        entries, index = (reader.records[f"f{names.index(name)}"] for name in ("image", "index"))
        height, width, size = (self.dataset.column(name)[rows] for name in ("height", "width", "size"))
        codes, codecs = self.dataset.codes("codec")
        compressed = np.array([codec == "jpg" for codec in codecs])[codes[rows]]
        mode = np.where(compressed, JPEG, RAW)
        stored = [index, entries["mode"], entries["height"], entries["width"]]
        if not all(map(np.array_equal, stored, [rows, mode, height, width])):
            raise BetonError("it holds other samples than the manifest")
        sizes = np.where(compressed, size, 3 * height.astype(np.int64) * width)
        pointer = entries["pointer"].astype(np.int64)
        if ((pointer < 0) | (pointer > len(reader.content) - sizes)).any():
            raise BetonError("a pointer leads out of the file")
        return entries.copy(), sizes

    def read(self, row: int) -> tuple[np.ndarray, int, int]:
        """A JPEG's bytes, or pixels [H, W, 3]; height and width.

        Raises BetonError where the file ends early, or for a JPEG whose checksum is not the manifest's. (Of images
        that the tars compress otherwise, the manifest has no checksum of their pixels.)
        """
        entry = self.position[row - self.first]
        mode, width, height, pointer = self.entries[entry].item()
        payload = os.pread(self.file.fileno(), int(self.sizes[entry]), pointer)
        if len(payload) != self.sizes[entry]:
            raise BetonError("the file ends before it")
        if mode == RAW:
            return np.frombuffer(payload, np.uint8).reshape(height, width, 3), height, width
        if xxhash.xxh3_64_intdigest(payload) != self.dataset.checksums[row]:
            raise BetonError("checksum differs from the manifest's")
        return np.frombuffer(payload, np.uint8), height, width

    def damaged(self, row: int, cause: Exception) -> UserError:
        """The error that says which sample cannot be read."""
        return self._wrong(f"sample {self.dataset.cell('key', row)} cannot be read", cause)

    def _wrong(self, what: str, cause: Exception) -> UserError:
        return UserError(f"{self.path}: {what} ({cause}): {self.again}, which writes it anew from the shards")
