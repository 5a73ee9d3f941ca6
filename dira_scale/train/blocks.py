"""``data.block=auto``: how many samples stay together in the shuffle of a new run."""

from typing import Any

from omegaconf import DictConfig

from dira_scale.base.storage.store import is_local, locate
from dira_scale.dataset.manifest import INFO_FILE, DatasetInfo
from dira_scale.train.data.cache.settings import CacheSettings
from dira_scale.train.data.config import AUTO, Data
from dira_scale.train.data.loaders.build import STREAM
from dira_scale.train.distributed.control import broadcast_from_main, on_main
from dira_scale.train.distributed.world import World
from dira_scale.train.opened import weights_of

FEW = 16  # shards, which every node soon has, and which as blocks would hardly be shuffled


def through_cache(data: Data) -> bool:
    """Return whether whole shards are fetched: from a store, or because a cache is asked for."""
    local = all(is_local(locate(path, "data.shards")) for path in weights_of(data.shards))
    return not local or data.loader == STREAM or bool(CacheSettings.of(data).asked_for)


def block_of(data: Data) -> int:
    """Return ``data.block``, of ``auto`` its number: where whole shards are fetched about as many samples as a shard
    has, so that each of several nodes needs few shards; else 1.

    It depends on the configuration and on ``dataset.json``, not on what a machine has. Raises DatasetError.
    """
    if data.block != AUTO:
        return int(data.block)
    # Several crops, and negatives, are of all shards, whatever the block.
    if data.crops > 1 or data.negatives is not None or not through_cache(data):
        return 1
    infos = [DatasetInfo.read(locate(path, "data.shards") / INFO_FILE) for path in weights_of(data.shards)]
    each = sum(sum(info.counts.values()) for info in infos) / max(1, sum(len(info.shards) for info in infos))
    drawn = data.fraction * sum(info.counts.get(data.split, 0) for info in infos)
    return max(1, round(each)) if drawn >= FEW * each else 1


def settle_block(config: Any, cfg: DictConfig, world: World) -> None:
    """Set ``data.block=auto`` of a new run to its number, by the main process: it is part of the run's identity.
    Collective. Raises AgreedError."""
    if config.data.block == AUTO:
        config.data.block = cfg.data.block = broadcast_from_main(on_main(world, lambda: block_of(config.data)))
