"""``python -m dira_scale.words run=RUN data.shards=OUT out=FOLDER``: visual words of volumes, as a dataset.

One process, on a GPU if there is one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "words", "cut visual words out of volumes, as a dataset with labels", output="out", in_sweeps=True, gpu=True,
    reads_run=True, parts=True, execution=("batch", "workers", "data.workers", "trust", "reach"),
    check="dira_scale.words.config:check",
)  # fmt: skip


def words(cfg: "DictConfig") -> None:
    """Write what ``out`` lacks."""
    from omegaconf import OmegaConf

    from dira_scale.data.present import check_present
    from dira_scale.runs.complete import config_file
    from dira_scale.words.origin import open_origin

    if cfg.run:
        config_file(Path(cfg.run))
    check_present(cfg.data.shards)
    config: Any = OmegaConf.to_object(cfg)
    dataset, train, val = open_origin(config)
    from dira_scale.words.make import make

    make(config, dataset, train, val)


main = entry(COMMAND, words)
