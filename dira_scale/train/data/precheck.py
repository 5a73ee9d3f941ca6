"""Check that datasets exist, before a command begins. Imports no torch, which takes seconds."""

from omegaconf import DictConfig, OmegaConf

from dira_scale.base.storage.store import is_local, locate
from dira_scale.dataset.manifest import INFO_FILE, DatasetInfo


def check_present(cfg: DictConfig) -> None:
    """Read ``dataset.json`` of what ``data.shards`` names, where that is on this machine: stores are asked once, later.

    Raises DatasetError if there is none.
    """
    shards = OmegaConf.to_container(cfg.data)["shards"]  # type: ignore[index,call-overload]
    for path in [shards] if isinstance(shards, str) else shards or []:
        if is_local(root := locate(str(path), "data.shards")):
            DatasetInfo.read(root / INFO_FILE)
