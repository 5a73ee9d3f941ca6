"""Medical images into shards: ``python -m dira_scale.shard recipe=NAME out=FOLDER``."""

import os
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from dira_scale.config import run_verb
from dira_scale.ingest.convert import convert


def shard(config: DictConfig) -> int:
    recipe = OmegaConf.to_container(config.recipe, resolve=True)
    assert isinstance(recipe, dict)
    workers = len(os.sched_getaffinity(0)) if config.workers is None else config.workers
    try:
        convert({str(key): value for key, value in recipe.items()}, Path(config.out), workers, config.key_file)
    except KeyboardInterrupt:
        print("\ninterrupted; what is finished is kept: run the same command again to go on")
        return 75
    return 0


def main(argv: list[str] | None = None) -> int:
    return run_verb("shard", shard, argv)


if __name__ == "__main__":
    raise SystemExit(main())
