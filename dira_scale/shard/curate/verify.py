"""Verify a dataset: compute every checksum, decode every image and mask, read every tar."""

import tarfile
from collections.abc import Iterator
from concurrent.futures import as_completed
from functools import lru_cache, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash

from dira_scale.archive.claim import ALL, ShardSlice
from dira_scale.archive.foreground import foreground_of
from dira_scale.base.errors import counted, print_line
from dira_scale.base.machine.progress import bar
from dira_scale.base.machine.workers import worker_pool
from dira_scale.base.storage.store import open_file
from dira_scale.dataset.manifest import INDEX_FILE, DatasetError, ShardedDataset
from dira_scale.dataset.manifest.foreground import FOREGROUND_FILE, read_foreground
from dira_scale.dataset.manifest.index_files import is_of_manifest
from dira_scale.dataset.manifest.shard_file import require_shard
from dira_scale.dataset.manifest.tar import checksum, members
from dira_scale.dataset.pixels.bricks import BrickError, Bricks
from dira_scale.dataset.pixels.codecs import DecodeError, decode
from dira_scale.shard.curate.notes import Notes

SHOWN = 20  # damages that are printed individually
UNREAD = {"split", "patient", "study", "low", "high", "spacing", "labels", "boxes", "attributes"}


# Once in each worker: to read a description of 100,000 shards takes longer than a shard.
opened = lru_cache(maxsize=1)(lambda path, of: ShardedDataset.open(path, check_shards=False))


class Damage(NamedTuple):
    """A mismatch between shard and manifest; ``key`` is the sample's, or empty for the shard itself."""

    shard: str
    key: str
    reason: str


def verify(path: str | Path, workers: int, part: ShardSlice = ALL) -> list[Damage]:
    """All damage in the dataset at ``path``, or in a ``part`` of its shards, in manifest order; empty if it is intact.
    Shards that an interrupted call or a slice has found intact are not read again.

    Raises DatasetError if ``dataset.json`` or the manifest cannot be read.
    """
    dataset = ShardedDataset.open(path, check_shards=False)
    notes, shards = Notes(dataset), list(dataset.info.shards)[part.number - 1 :: part.total]
    left = [shard for shard in shards if shard not in notes.intact or not _is_there(dataset, shard)]
    if len(left) < len(shards):
        before = f"{len(shards) - len(left)} of {counted(len(shards), 'shard')}"
        print_line(f"{before} were intact in earlier calls; to verify them again, delete {notes.folder}")
    result: dict[str, list[Damage]] = {}
    kept = dataset.index.manifest["xxh3"]  # else it was made of the manifest
    if part.number == 1 and kept and not is_of_manifest(dataset.manifest, dataset.info):
        result[INDEX_FILE] = [Damage(INDEX_FILE, "", "it says otherwise than the manifest: delete it")]
    with (
        bar("verifying", "shards") as progress,
        notes.writer(part) as note,
        worker_pool(max(1, min(workers, len(left))), __name__) as pool,
    ):
        task = progress.add_task("", total=len(shards), completed=len(shards) - len(left))
        waiting = {pool.submit(verify_shard, path, shard, notes.of): shard for shard in left}
        for done in as_completed(waiting):
            shard = waiting[done]
            if damages := done.result():
                result[shard] = damages
            else:
                note(shard)
            progress.advance(task)
    if part == ALL:
        notes.remove()
    return [damage for shard in (INDEX_FILE, *left) for damage in result.get(shard, ())]


def _is_there(dataset: ShardedDataset, shard: str) -> bool:
    try:
        require_shard(dataset.file(shard), dataset.info.shards[shard])
    except DatasetError:
        return False
    return True


def print_damages(path: str | Path, damages: list[Damage], part: ShardSlice = ALL) -> int:
    """Print the damage. Returns the exit code: 0 if intact, 1 if damaged."""
    if not damages:
        what = path if part == ALL else f"slice {part} of {path}"
        print_line(f"{what} is intact: every checksum matches, every image and mask was decoded")
        return 0
    for damage in damages[:SHOWN]:
        print_line(f"{damage.shard}{f', sample {damage.key}' if damage.key else ''}: {damage.reason}")
    if len(damages) > SHOWN:
        print_line(f"… and {len(damages) - SHOWN} more")
    shards = len({damage.shard for damage in damages} - {INDEX_FILE})
    if not shards:
        return 1
    print_line(
        f"{path} is damaged in {shards} of its shards: copy them again from an intact copy, or rewrite them from the "
        f"source: python -m dira_scale.shard repair path={path} recipe=…"
    )
    return 1


def verify_shard(path: str | Path, shard: str, of: str = "") -> list[Damage]:
    """The damage in one shard of the dataset that :attr:`Notes.of` identifies."""
    dataset = opened(path, of)
    file = dataset.file(shard)
    columns = [name for name in dataset.info.schema.names if name not in UNREAD]
    tables = dataset.manifest.at(columns, dataset.rows_in(shard))
    rows = sorted((row for table in tables for row in table.to_pylist()), key=itemgetter("offset"))
    if not file.is_file():
        return [Damage(shard, "", "missing")]
    if (size := file.stat().st_size) != dataset.info.shards[shard]:
        return [Damage(shard, "", f"{size} bytes instead of {dataset.info.shards[shard]}")]
    table = read_foreground(dataset.root, pa.array([row["key"] for row in rows]))
    foreground = dict[str, list[dict[str, Any]]]()
    for of_class in table.to_pylist() if table else ():
        foreground.setdefault(of_class["key"], []).append(of_class)
    with open_file(file) as stream:
        damages: list[Damage] = []
        for row in rows:
            damages += _sample(shard, row, stream, None if table is None else foreground.get(row["key"], []))
        stream.seek(0)
        damages += _members(shard, rows, stream)
        if not damages and (expected := dataset.info.checksums.get(shard)) and checksum(stream) != expected:
            damages.append(Damage(shard, "", "the file's checksum differs, but no image's does"))
    return damages


def _sample(
    shard: str, row: dict[str, Any], stream: BinaryIO, foreground: list[dict[str, Any]] | None
) -> Iterator[Damage]:
    """Decode an image and its mask, whose rows of ``foreground.parquet`` are given, if there is such a file."""
    stream.seek(row["offset"])
    payload = stream.read(row["size"])
    if xxhash.xxh3_64_hexdigest(payload) != row["xxh3"]:
        yield Damage(shard, row["key"], "the image's checksum differs")
    else:
        try:
            pixels = decode(payload, row["codec"], _shape(row, row["channels"]))
        except (DecodeError, KeyError) as error:
            yield Damage(shard, row["key"], f"the image cannot be decoded ({type(error).__name__}: {error})")
        else:
            if 8 * pixels.itemsize != row["bits"]:
                yield Damage(shard, row["key"], f"the image is {pixels.dtype}, not {row['bits']} bits")
    if row["mask_size"] is None:
        return
    stream.seek(row["mask_offset"])
    payload, shape = stream.read(row["mask_size"]), _shape(row, 1)
    try:
        decode(payload, "png" if row["affine"] is None else "b2nd", shape)
        if row["affine"] is not None:  # its checksums
            bricks = Bricks(shape, np.dtype(np.uint8), len(payload), partial(_fetch, payload))
            mask = bricks.cut([tuple(slice(0, side) for side in shape)])[0][0]
            if foreground is not None and foreground_of(mask, row["key"]) != foreground:
                yield Damage(shard, row["key"], f"{FOREGROUND_FILE} has other voxels than its mask")
    except (DecodeError, BrickError) as error:
        yield Damage(shard, row["key"], f"the mask cannot be decoded ({error})")


def _fetch(payload: bytes, start: int, buffer: memoryview) -> None:
    buffer[:] = memoryview(payload)[start : start + len(buffer)]


def _shape(row: dict[str, Any], channels: int) -> tuple[int, ...]:
    """The decoded array's shape: channels last in 2D, first in 3D."""
    inner = (row["height"], row["width"])
    if row["affine"] is None:
        return inner if channels == 1 else (*inner, channels)
    return (row["depth"], *inner) if channels == 1 else (channels, row["depth"], *inner)


def _members(shard: str, rows: list[dict[str, Any]], stream: BinaryIO) -> Iterator[Damage]:
    """Check the tar: the manifest's samples in the order of ``rows``, each with its image, JSON and mask."""
    try:
        result = list(members(stream))
    except tarfile.TarError as error:
        yield Damage(shard, "", f"not a readable tar ({type(error).__name__})")
        return
    if not all(member.isreg() for member in result):
        yield Damage(shard, "", "the tar holds members other than plain files")
        return
    named = [(member.name.partition("."), member.offset_data) for member in result]
    samples = [
        (key, [(kind, offset) for (_, _, kind), offset in files])
        for key, files in groupby(named, key=lambda member: member[0][0])
    ]
    if "/" in shard:  # of another dataset, which this one is derived from
        keys = {row["key"] for row in rows}
        samples = [(key, files) for key, files in samples if key in keys]
    if [key for key, _ in samples] != [row["key"] for row in rows]:
        yield Damage(shard, "", "the tar holds other samples than the manifest")
        return
    for row, (key, files) in zip(rows, samples, strict=True):
        kinds = {row["codec"]: row["offset"], "json": None}
        if row["mask_size"] is not None:
            kinds["mask.png" if row["affine"] is None else "mask.b2nd"] = row["mask_offset"]
        if sorted(kinds) != sorted(kind for kind, _ in files):
            yield Damage(shard, key, "the tar holds other files for it than the manifest")
        elif any(offset != kinds[kind] for kind, offset in files if kind != "json"):
            yield Damage(shard, key, "its offset in the tar differs from the manifest's")
