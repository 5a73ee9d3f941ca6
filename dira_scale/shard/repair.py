"""Repair a dataset from its source: rewrites only shards that are missing, truncated or changed."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dira_scale.archive.claim import ALL, ShardSlice, claimed, remove_leftovers
from dira_scale.archive.output import check_unchanged, completed, differences
from dira_scale.archive.plan import planned_from
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.writer import WrittenShard, sharding, write_shards
from dira_scale.base.errors import UserError
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.progress import bar
from dira_scale.base.storage.atomic import publish
from dira_scale.base.storage.store import as_os_error, locate, remove
from dira_scale.dataset.manifest import DatasetInfo, ShardedDataset
from dira_scale.dataset.manifest.tar import checksum


def repair(
    config: Mapping[str, Any], path: str | Path, workers: int, key_file: str | None = None, slice_: str | None = None
) -> list[str]:
    """Rewrite the damaged shards of the dataset at ``path`` from the source of the recipe ``config``, byte for byte as
    they were: all, or those of a slice. Returns the repaired shards.

    Raises:
        DatasetError: ``dataset.json`` or the manifest is damaged.
        UserError: another recipe or source, or libraries that no longer produce the same bytes.
    """
    console = Console(soft_wrap=True, highlight=False)
    folder, part = locate(path, "path"), ShardSlice.parse(slice_)
    dataset = ShardedDataset.open(folder, check_shards=False)
    recipe = Recipe.from_config(completed(config, folder))
    hasher, _ = recipe.hasher(key_file)
    identity = recipe.identity(hasher)
    if different := differences(dataset.info.recipe, identity):
        raise UserError(f"path={folder} holds the shards of another recipe ({different}): use the recipe that made it")
    try:
        broken = find_broken(folder, dataset.info, workers, part)
        looked_at = len(range(part.number - 1, len(dataset.info.shards), part.total))
        what = folder if part == ALL else f"slice {part} of {folder}"
        if not broken:
            console.print(f"{what} is intact: {looked_at} shards, every checksum matches")
            return []
        for shard, reason in broken.items():
            console.print(f"{shard}: {reason}")
        planned = planned_from(recipe.make_source(), recipe, hasher, workers)
        check_unchanged(dataset, planned)
        remove_leftovers(folder)  # leftovers of a late slice may be from other images
        with claimed(folder, identity, planned, part) as scratch:
            done = partial(_republish, folder, dataset.info.checksums)
            write_shards(list(broken), planned, sharding(recipe), workers, scratch, done)
            remove(scratch)
        remove_leftovers(folder)  # unless another slice uses them
    except OSError as error:
        raise UserError(f"repairing {folder} failed ({error}): fix this, then run the same command again") from error
    console.print(f"{what} is repaired: {len(broken)} of {looked_at} shards were rewritten")
    return list(broken)


def find_broken(folder: Path, info: DatasetInfo, workers: int, part: ShardSlice = ALL) -> dict[str, str]:
    """The damaged shards, of all or of a ``part``, and what is wrong with each.

    Raises:
        UserError: the dataset points into shards of other datasets, which can only be repaired there.
    """
    if elsewhere := next((shard for shard in info.checksums if "/" in shard), None):
        raise UserError(
            f"{folder} has no shards of its own but points to {elsewhere}: repair the dataset that has them"
        )

    def look(shard: str) -> str:
        with as_os_error(folder):
            if not (folder / shard).exists():
                return "missing"
            if (size := (folder / shard).stat().st_size) != info.shards[shard]:
                return f"{size} bytes instead of {info.shards[shard]}"
            with (folder / shard).open("rb") as file:
                return "" if checksum(file) == info.checksums[shard] else "another checksum"

    with bar("looking at", "shards") as progress, ThreadPoolExecutor(workers) as pool:
        shards = list(info.shards)[part.number - 1 :: part.total]
        reasons = progress.track(pool.map(look, shards), total=len(shards))
        return {shard: reason for shard, reason in zip(shards, reasons, strict=True) if reason}


def _republish(folder: Path, checksums: Mapping[str, str], name: str, part: Path, shard: WrittenShard) -> None:
    if shard.xxh3 != checksums[name]:
        raise UserError(
            f"{name} came out different: an image or mask was replaced by one of the same size, or another version of "
            f"a library encodes differently; remake {folder}"
        )
    publish(part, folder / name)
