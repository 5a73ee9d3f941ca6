"""``data.cache``, ``data.cache_size`` and ``data.missing``."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dira_scale.data.cache.folder import CacheFolder, is_cache
from dira_scale.errors import UserError
from dira_scale.storage.owned import own
from dira_scale.storage.store import is_local, locate

GB = 10**9
SHARE = 0.5  # of the free space, where no size is given


@dataclass(frozen=True)
class CacheSettings:
    """Where shards are kept, how much of them, and what becomes of one that is unavailable.

    Attributes:
        folder: ``data.cache``, on a disk of this node; None: in the system's folder for temporary files.
        size: ``data.cache_size``, in GB (10^9 bytes); None: half of the disk's free space.
        missing: ``data.missing``, ``stop`` or ``skip``.
    """

    folder: str | None = None
    size: float | None = None
    missing: Literal["stop", "skip"] = "stop"

    @property
    def asked_for(self) -> list[str]:
        """The keys that were set."""
        values = {"data.cache": self.folder, "data.cache_size": self.size}
        given = [f"{key}={value}" for key, value in values.items() if value is not None]
        return given + ([f"data.missing={self.missing}"] if self.missing != "stop" else [])

    @property
    def location(self) -> Path:
        """The folder. Raises UserError if it is in a store."""
        if self.folder is None:
            return Path(tempfile.gettempdir()) / f"dira_scale-{os.getuid()}"
        folder = locate(self.folder, "data.cache")
        if not is_local(folder):
            raise UserError(f"data.cache={self.folder}: shards are kept on a disk of this node; name a local folder")
        return folder.absolute()

    def open(self) -> CacheFolder:
        """The folder, made if need be, with its bound in bytes.

        Raises UserError if it cannot be written to, belongs to another user, or holds other files than a cache's.
        """
        folder = self.location
        try:
            folder.mkdir(mode=0o700 if self.folder is None else 0o777, parents=True, exist_ok=True)
            if self.folder is None and folder.stat().st_uid != os.getuid():  # anyone may write to the system's folder
                raise PermissionError(f"{folder} belongs to another user")
            if not is_cache(folder):
                own(folder, "cached shards", "data.cache")
            cache = CacheFolder(folder, 0)
            room = shutil.disk_usage(folder).free + cache.used()
        except OSError as error:
            raise UserError(f"data.cache={folder} cannot be used: {error.strerror or error}; name another") from error
        cache.most = int(room * SHARE if self.size is None else self.size * GB)
        return cache
