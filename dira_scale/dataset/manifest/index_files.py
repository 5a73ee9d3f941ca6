"""The index of a large manifest in one file, mapped by all processes of a machine."""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from dira_scale.base.storage.atomic import publish
from dira_scale.dataset.manifest.index import CODEC_NAMES, INDEX_VERSION, ManifestIndex, Scan
from dira_scale.dataset.manifest.info import DatasetInfo
from dira_scale.dataset.manifest.parquet import ManifestFile

logger = logging.getLogger(__name__)

LARGE = 2**17  # rows from which the index is a file: below, scanning again takes less than half a second
PATIENCE = 300  # seconds that a process waits for another that makes an index; parallel.timeout is longer
UNUSED = 30 * 24 * 3600  # seconds without being opened after which an index is removed


def index_of(manifest: ManifestFile, info: DatasetInfo) -> ManifestIndex:
    """Return the manifest's index: of a large one from a file, which the first process that needs it makes.

    The file is used only for the manifest and the description that it was made of, unchanged.

    Raises DatasetError if the manifest is damaged or does not fit ``info``.
    """
    rows, scan = sum(info.counts.values()), Scan(manifest, info)
    if rows < LARGE:
        return scan.index()
    # All that the index depends on names its file.
    described = [info.dims, list(info.counts.items()), list(info.shards.items()), info.label_names, info.channels]
    facts = json.dumps([INDEX_VERSION, CODEC_NAMES, manifest.identity, described]).encode()
    path = index_folder() / f"{xxhash.xxh3_128_hexdigest(facts)}.index"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if index := _read(path, info):
            return index
        with _alone(path.parent):
            if index := _read(path, info):  # another process made it meanwhile
                return index
            logger.info(f"{manifest.path}: reading all rows, once; the index is kept in {path.parent}")
            part = path.with_suffix(".tmp")
            try:
                with part.open("wb") as file:
                    scan.write(file)
                publish(part, path)
            finally:
                part.unlink(missing_ok=True)
            for old in [*path.parent.glob("*.index"), *path.parent.glob("*.tmp")]:
                if time.time() - old.stat().st_mtime > UNUSED:
                    old.unlink(missing_ok=True)
        return ManifestIndex.read(path, info)
    except OSError as error:  # of the cache: the manifest's are DatasetErrors
        logger.warning(
            f"{manifest.path}: {path.parent} cannot keep its index ({error.strerror or error}), so every process reads "
            f"all {rows:,} rows and holds them in memory; set XDG_CACHE_HOME to a folder on this machine's disk"
        )
        return scan.index()


def index_folder() -> Path:
    """``$XDG_CACHE_HOME/dira_scale/manifests``; ``~/.cache`` where the variable is not set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dira_scale" / "manifests"


def _read(path: Path, info: DatasetInfo) -> ManifestIndex | None:
    """None if there is none, or only part of one."""
    try:
        index = ManifestIndex.read(path, info)
    except (FileNotFoundError, ValueError):
        return None
    with suppress(PermissionError):  # a cache that is only read: its owner sees to it
        os.utime(path)
    return index


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time. Raises TimeoutError after ``PATIENCE``, other OSErrors where files cannot be locked."""
    deadline = time.monotonic() + PATIENCE
    with (folder / "lock").open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {folder / 'lock'} for {PATIENCE} s") from error
                time.sleep(0.1)
        yield
