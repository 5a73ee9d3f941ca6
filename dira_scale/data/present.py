"""Whether datasets are there, asked before torch is imported, which takes seconds."""

from typing import Any

from omegaconf import OmegaConf

from dira_scale.data.manifest import INFO_FILE, DatasetInfo
from dira_scale.storage.store import is_local, locate


def check_present(shards: Any) -> None:
    """Read ``dataset.json`` of what ``data.shards`` names, where that is on this machine: stores are asked once, later.

    Raises DatasetError if there is none.
    """
    if OmegaConf.is_config(shards):
        shards = OmegaConf.to_container(shards)
    paths = [shards] if isinstance(shards, str) else list(shards) if isinstance(shards, list | dict) else []
    for path in paths:
        if is_local(root := locate(str(path), "data.shards")):
            DatasetInfo.read(root / INFO_FILE)
