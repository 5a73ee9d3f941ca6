"""One pass over a manifest, which checks every row and makes its index."""

import hashlib
import json
import os
import shutil
import tempfile
from binascii import unhexlify
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from dira_scale.base.errors import DatasetError
from dira_scale.dataset.manifest.checks import wrong_records
from dira_scale.dataset.manifest.index import CODEC_NAMES, MAGIC, NAMED, NO_MASK, IndexParts, PayloadKind, numbers
from dira_scale.dataset.manifest.info import DatasetInfo
from dira_scale.dataset.manifest.parquet import ManifestFile
from dira_scale.dataset.manifest.schema import INFO_FILE

# All that is checked, or in the index.
READ = (
    "key", "split", "patient", "study", "shard", "codec", "xxh3", "labels", "spacing", "affine", "boxes", "mask_offset",
    "mask_size",
)  # fmt: skip
NAMES = pa.schema([("row", pa.int64()), ("name", pa.string())])
PARTS, PART_ROWS = 64, 2**20  # names are numbered part by part, by their hashes: of so many rows, or in so many parts


class Scan:
    """Makes a manifest's index. Memory: that of a part of the names, and 40 bytes a shard."""

    def __init__(self, manifest: ManifestFile, info: DatasetInfo) -> None:
        self.manifest, self.info = manifest, info
        self._numbers = numbers(info.dims)
        self._splits, self._shards = list(info.counts), pa.array(list(info.shards), pa.string())

    def write(self, file: BinaryIO, checksum: bool = False) -> None:
        """Write it to an empty file; with the manifest's ``checksum``, which an index that is kept beside it has.

        Raises DatasetError for a row that the checks refuse, or counts that differ from the description's; OSError of
        the file's disk.
        """
        rows, layout = sum(self.info.counts.values()), IndexParts(self.info)
        os.posix_fallocate(file.fileno(), 0, layout.size)  # where the disk is full, writing to a map would kill
        content = np.asarray(np.memmap(file, np.uint8, "r+", shape=(layout.size,)))
        content[: len(MAGIC)] = np.frombuffer(MAGIC, np.uint8)
        records, by_split, patient, study, spans = layout.split(content)
        folder = Path(file.name).parent if isinstance(file.name, str) else None
        coded = [(_Coding(rows, folder), codes) for codes in (patient, study)]
        first, last, count = np.full(len(spans), rows), np.full(len(spans), -1), np.zeros(len(spans), np.int64)
        ends = np.cumsum([0, *self.info.counts.values()])
        filled, digest, start = ends[:-1].copy(), hashlib.sha256(), 0
        kinds: dict[str, set[PayloadKind]] = {split: set() for split in self._splits}
        for table in self.manifest.batches([*READ, *self._numbers]):
            here = slice(start, start + len(table))
            try:
                records[here] = self._records(table, records.dtype)
                if fault := wrong_records(records[here], self.info, len(CODEC_NAMES)):
                    raise ValueError(fault)
                lines = pc.binary_join_element_wise(table["key"], table["split"], table["xxh3"], " ")
                digest.update(_text(pc.binary_join_element_wise(lines, "", "\n").combine_chunks()))
            except ValueError as error:  # pyarrow's errors are too
                raise self.manifest.damaged(error) from error
            split = pc.index_in(table["split"], pa.array(self._splits, pa.string())).to_numpy()
            for number in np.unique(split).tolist():
                place = slice(filled[number], filled[number] + (split == number).sum())
                if place.stop <= ends[number + 1]:
                    by_split[place] = start + np.flatnonzero(split == number)
                filled[number] = place.stop
            shard, row = records[here]["shard"], np.arange(here.start, here.stop)
            np.minimum.at(first, shard, row)
            np.maximum.at(last, shard, row)
            count += np.bincount(shard, minlength=len(count))
            for name, (coding, _) in zip(NAMED, coded, strict=True):
                coding.add(start, table[name].combine_chunks())
            for kind in table.group_by(["split", *PayloadKind._fields]).aggregate([]).to_pylist():
                kinds[kind.pop("split")].add(PayloadKind(**kind))
            start = here.stop
            os.utime(file.fileno())  # a sign of life
        for name, counted in zip(self._splits, (filled - ends[:-1]).tolist(), strict=True):
            if counted != self.info.counts[name]:
                raise DatasetError(
                    f"{self.manifest.path} has {counted} rows of split '{name}', but {INFO_FILE} counts "
                    f"{self.info.counts[name]}: the files do not belong together; shard again"
                )
        spans[:] = np.stack([np.where(last - first + 1 == count, first, -1), count], 1)
        spans[count == 0] = 0
        file.seek(layout.size)
        named = {name: coding.write(codes, file) for name, (coding, codes) in zip(NAMED, coded, strict=True)}
        facts = json.dumps({
            "described": self.info.described(CODEC_NAMES), "hash": digest.hexdigest(),
            "kinds": {split: sorted(of) for split, of in kinds.items()}, "names": named,
            "manifest": self.manifest.bond() | {"xxh3": self.manifest.checksum() if checksum else ""},
        }).encode()  # fmt: skip
        facts += b" " * (-len(facts) % 8)  # keeps the length aligned
        file.write(facts + len(facts).to_bytes(8, "little"))
        file.flush()

    def _records(self, rows: pa.Table, kind: np.dtype) -> np.ndarray:
        records = np.empty(len(rows), kind)
        for name in self._numbers:
            column = rows[name]
            if pa.types.is_list(column.type):  # of several channels
                records[name] = pc.list_flatten(column).to_numpy().reshape(len(rows), -1)
            else:
                records[name] = column.to_numpy()
        for name in ("mask_offset", "mask_size"):
            records[name] = pc.fill_null(rows[name], NO_MASK).to_numpy()
        for name, words in (("shard", self._shards), ("codec", pa.array(CODEC_NAMES))):
            records[name] = pc.index_in(rows[name], words).to_numpy()
        records["labels"] = pc.list_flatten(rows["labels"]).to_numpy().reshape(len(rows), -1)
        text = _text(rows["xxh3"].combine_chunks())
        if len(text) != 16 * len(rows) or pc.any(pc.not_equal(pc.binary_length(rows["xxh3"]), 16)).as_py():
            raise ValueError("xxh3 is not 16 hexadecimal digits")
        records["xxh3"] = np.frombuffer(unhexlify(text), ">u8")
        return records


class _Coding:
    """Gives each name of a column a number. Of many rows the names wait on the disk, in parts by their hashes."""

    def __init__(self, rows: int, folder: Path | None) -> None:
        count = min(PARTS, -(-rows // PART_ROWS)) or 1
        self._parts = [tempfile.TemporaryFile(dir=folder) for _ in range(count)]  # noqa: SIM115 (closed once read)
        self._writers = [pa.ipc.new_stream(file, NAMES) for file in self._parts]

    def add(self, start: int, names: pa.StringArray) -> None:
        """Add those of the rows from ``start`` on; null: none."""
        rows = np.flatnonzero(names.is_valid().to_numpy(zero_copy_only=False))
        part = np.zeros(len(rows), int)
        if len(self._parts) > 1:
            coded = names.drop_null().dictionary_encode()
            words = coded.dictionary.cast(pa.binary()).to_pylist()
            part = np.array([xxhash.xxh3_64_intdigest(word) % len(self._parts) for word in words])[coded.indices]
        for number, writer in enumerate(self._writers):
            chosen = rows[part == number]
            writer.write_batch(pa.record_batch([pa.array(start + chosen), names.take(pa.array(chosen))], schema=NAMES))

    def write(self, codes: np.ndarray, file: BinaryIO) -> tuple[int, int]:
        """Fill ``codes``, write the names to ``file``; return their number and their length in bytes."""
        codes[:] = -1
        count, size = 0, 0
        with tempfile.TemporaryFile() as text:
            file.write(bytes(8))
            for part, writer in zip(self._parts, self._writers, strict=True):
                writer.close()
                part.seek(0)
                table = pa.ipc.open_stream(part).read_all()
                coded = table["name"].combine_chunks().dictionary_encode()
                codes[table["row"].to_numpy()] = count + coded.indices.to_numpy()
                lengths = pc.binary_length(coded.dictionary).to_numpy()
                file.write((size + np.cumsum(lengths, dtype=np.int64)).tobytes())
                text.write(_text(coded.dictionary))
                count, size = count + len(lengths), size + int(lengths.sum())
                part.close()
            text.seek(0)
            shutil.copyfileobj(text, file)
        file.write(bytes(-size % 8))
        return count, size


def _text(texts: pa.StringArray) -> memoryview:
    _, offsets, data = texts.buffers()
    first, last = np.frombuffer(offsets, np.int32)[[texts.offset, texts.offset + len(texts)]].tolist()
    return memoryview(data or b"")[first:last]
