"""Settings of this node's cache of shards."""

import os
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.storage.owned import own
from dira_scale.base.storage.store import is_local, locate
from dira_scale.train.data.cache.folder import CacheFolder, is_cache

GB = 10**9
SHARE = 0.5  # of the free space, where no size is given


@dataclass(frozen=True)
class CacheSettings:
    """The cache's folder and size, and what happens when a shard is unavailable.

    Attributes:
        folder: on a disk of this node; None: in the system's folder for temporary files.
        size: in GB (10^9 bytes); None: half of the disk's free space.
        missing: ``stop`` or ``skip``.
    """

    folder: str | None = None
    size: float | None = None
    missing: Literal["stop", "skip"] = "stop"

    @property
    def asked_for(self) -> list[str]:
        """Return the settings that are not the defaults, as ``folder /scratch/shards``."""
        return [f"{key.name} {value}" for key in fields(self) if (value := getattr(self, key.name)) != key.default]

    @property
    def location(self) -> Path:
        """Return the folder. Raises ArgumentError if it is in a store."""
        if self.folder is None:
            return Path(tempfile.gettempdir()) / f"dira_scale-{os.getuid()}"
        folder = locate(self.folder, "cache")
        if not is_local(folder):
            raise ArgumentError("folder", self.folder, "a folder on a disk of this node, where shards are kept")
        return folder.absolute()

    def open(self) -> CacheFolder:
        """Return the folder, made if need be, with its bound in bytes.

        Raises ArgumentError if it cannot be written to, or belongs to another user; UserError if it holds other files
        than a cache's.
        """
        folder = self.location
        try:
            folder.mkdir(mode=0o700 if self.folder is None else 0o777, parents=True, exist_ok=True)
            if self.folder is None and folder.stat().st_uid != os.getuid():  # anyone may write to the system's folder
                raise PermissionError(f"{folder} belongs to another user")
            if not is_cache(folder):
                own(folder, "cached shards", "cache")
            cache = CacheFolder(folder, 0)
            room = shutil.disk_usage(folder).free + cache.used()
        except OSError as error:
            raise ArgumentError("folder", str(folder), f"another folder: {error.strerror or error}") from error
        cache.most = int(room * SHARE if self.size is None else self.size * GB)
        return cache
