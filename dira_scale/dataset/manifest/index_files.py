"""Where a manifest's index comes from: a file of its dataset, or a pass over the manifest; and what a node keeps."""

import errno
import json
import logging
import os
import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from dira_scale.base.errors import DatasetError
from dira_scale.base.storage.atomic import FULL
from dira_scale.base.storage.node import made_once
from dira_scale.base.storage.retry import retry
from dira_scale.base.storage.store import with_errno
from dira_scale.base.storage.streams import stream
from dira_scale.dataset.manifest.checks import LONGEST_TEXT
from dira_scale.dataset.manifest.index import CODEC_NAMES, MAGIC, IndexParts, ManifestIndex
from dira_scale.dataset.manifest.info import DatasetInfo
from dira_scale.dataset.manifest.parquet import ManifestFile, source_of
from dira_scale.dataset.manifest.scan import Scan
from dira_scale.dataset.manifest.schema import INDEX_FILE

logger = logging.getLogger(__name__)

LARGE = 2**15  # rows from which a node's processes share a file: below, each reads a megabyte or two
HUGE = 10**7  # rows of which no process may hold an index of its own: a gigabyte, in each of a node's


def index_of(manifest: ManifestFile, info: DatasetInfo) -> ManifestIndex:
    """Return the manifest's index: a copy of the dataset's own, or made of the manifest if it has none that fits.

    Of a large manifest the copy is a file of this node, which the first process that needs it makes.

    Raises DatasetError if the manifest is damaged or does not fit ``info``, and where an index that is too large for
    each process's memory cannot be kept.
    """
    rows = sum(info.counts.values())
    if rows < LARGE:
        return _in_memory(manifest, info)
    # All that the index depends on names its file.
    facts = json.dumps([MAGIC.decode(), manifest.identity, info.described(CODEC_NAMES)]).encode()
    name = f"{xxhash.xxh3_128_hexdigest(facts)}.index"
    try:
        path = made_once(name, lambda file: _fill(file, manifest, info))
        try:
            return _mapped(path, info)
        except ValueError:  # the node's disk has lost a part of it
            path.unlink(missing_ok=True)
            return _mapped(made_once(name, lambda file: _fill(file, manifest, info)), info)
    except OSError as error:  # of the node's disks: the dataset's are DatasetErrors
        why = f"{manifest.path}: no folder of this machine can keep its index ({error.strerror or error})"
        cure = "set XDG_CACHE_HOME to a folder on this machine's disk"
        if rows > HUGE:
            raise DatasetError(f"{why}, {IndexParts(info).size / 1e9:.1f} GB: {cure}") from error
        logger.warning(f"{why}, so every process holds that of all {rows:,} rows in memory; {cure}")
        return _in_memory(manifest, info)


def write_index(manifest: Path, info: DatasetInfo, path: Path) -> None:
    """Make the index of a new manifest. Raises as :meth:`Scan.write`."""
    with path.open("w+b") as file:
        Scan(ManifestFile(manifest, info), info).write(file, checksum=True)


def is_of_manifest(manifest: ManifestFile, info: DatasetInfo) -> bool:
    """Return whether the dataset's own index is what the manifest's rows make. Raises DatasetError for rows that are
    damaged."""
    with tempfile.TemporaryFile() as made:
        Scan(manifest, info).write(made, checksum=True)
        made.seek(0)
        with source_of(manifest.path.with_name(INDEX_FILE)) as own:
            return all(part == own.read(2**20) for part in iter(lambda: made.read(2**20), b"")) and not own.read(1)


def _in_memory(manifest: ManifestFile, info: DatasetInfo) -> ManifestIndex:
    with os.fdopen(os.memfd_create("index"), "w+b") as file:
        _fill(file, manifest, info)
        file.seek(0)
        return ManifestIndex.of(np.fromfile(file, np.uint8), info, check=False)  # a map would keep the descriptor


def _mapped(path: Path, info: DatasetInfo) -> ManifestIndex:
    return ManifestIndex.of(np.asarray(np.memmap(path, np.uint8, "r")), info, check=False)


def _fill(file: BinaryIO, manifest: ManifestFile, info: DatasetInfo) -> None:
    """Write the index to an empty ``file``."""
    own = manifest.path.with_name(INDEX_FILE)
    try:
        with with_errno(own):
            size, written = (status := own.stat()).st_size, status.st_mtime
        if size > IndexParts(info).size + sum(info.counts.values()) * 2 * (LONGEST_TEXT + 8) + 2**26:
            raise ValueError(f"{size} bytes are too many")
        _copy(own, size, file)
        index = ManifestIndex.of(np.asarray(np.memmap(file, np.uint8, "r")), info)
        bond = manifest.bond()
        other = any(index.manifest[name] != bond[name] for name in bond)
        # Who has edited the manifest since may have kept its size and end.
        if other or (manifest.newer_than(written) and index.manifest["xxh3"] != manifest.checksum()):
            raise ValueError("it is of another manifest")
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in FULL:  # the node's disk: another may have room
            raise
        raise DatasetError(f"{own} cannot be read ({error.strerror or error}): copy it again, or delete it") from error
    except (ValueError, RecursionError) as error:
        logger.warning("%s is not used: %s; shard verify checks a dataset", own, str(error).splitlines()[0])
    else:
        return
    file.truncate(0)
    file.seek(0)
    if (rows := sum(info.counts.values())) >= LARGE:
        logger.info(
            "%s: reading all %s rows, once: the dataset has no %s that fits", manifest.path, f"{rows:,}", INDEX_FILE
        )
    Scan(manifest, info).write(file)


def _copy(source: Path, size: int, file: BinaryIO) -> None:
    """Copy a file in order, in several attempts if need be. Raises OSError."""
    os.posix_fallocate(file.fileno(), 0, max(size, 1))
    stop = threading.Event()

    def attempt() -> None:
        with stream(source, file.tell(), size, stop) as (first, blocks):
            file.seek(first)
            for block in blocks:
                file.write(block)
                os.utime(file.fileno())  # a sign of life
        if file.tell() != size:
            raise OSError(errno.EIO, f"it has {file.tell()} bytes instead of {size}")

    retry(attempt, str(source), progress=file.tell)
    file.flush()
