"""Annotations that say what a key holds."""

from enum import Enum
from typing import Annotated


class Places(Enum):
    """How a key holds places: folders, files or prefixes in a store."""

    ONE = "a path, taken literally"
    SEVERAL = "a path, taken literally, or a list or mapping in Hydra's grammar"


Place = Annotated[str, Places.ONE]  # for arguments of a constructor named by ``_target_``
