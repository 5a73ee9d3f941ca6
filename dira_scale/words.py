"""``python -m dira_scale.words run=RUN data.shards=OUT out=FOLDER``: visual words of volumes, as a dataset.

One process, on a GPU if there is one. torch is imported inside the function: a typing mistake is named within a second.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import run_verb
from dira_scale.data.present import check_present
from dira_scale.discovery.origin import open_origin
from dira_scale.runs.complete import config_file


def words(cfg: DictConfig) -> int:
    """Write what ``out`` lacks; returns the exit code."""
    if cfg.run:
        config_file(Path(cfg.run))
    check_present(cfg.data.shards)
    config: Any = OmegaConf.to_object(cfg)
    dataset, train, val = open_origin(config)
    from dira_scale.discovery.make import make

    make(config, dataset, train, val)
    return 0


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("words", words, argv)


if __name__ == "__main__":
    raise SystemExit(main())
