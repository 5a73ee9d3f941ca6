"""Settings of this node's cache of shards."""

import os
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, cast

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.storage.store import is_local, locate
from dira_scale.train.data.config import Data


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

    @classmethod
    def of(cls, data: Data) -> "CacheSettings":
        return cls(data.cache, data.cache_size, cast(Literal["stop", "skip"], data.missing))

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
