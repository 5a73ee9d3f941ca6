"""``python -m dira_scale.predict run=RUN data.shards=OUT out=FOLDER``: probabilities of labels, numbers, or masks.

One process, on a GPU if there is one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dira_scale.cli import entry
from dira_scale.command import Command
from dira_scale.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "predict", "labels, masks or numbers of new images, by a fine-tuned run", output="out", gpu=True, reads_run=True,
    execution=("batch", "workers", "trust", "reach"),
)  # fmt: skip


def predict(cfg: "DictConfig") -> None:
    """Write tables or masks of a dataset's split, or of a folder's images, to ``out``."""
    from omegaconf import OmegaConf

    from dira_scale.data.present import check_present

    if not Path(cfg.run).is_dir():
        raise UserError(f"run={cfg.run} is not a folder: name a fine-tuned run, or its export")
    if cfg.data.shards is not None:
        check_present(cfg.data.shards)
    from dira_scale.predict.make import make

    config: Any = OmegaConf.to_object(cfg)
    make(config)


main = entry(COMMAND, predict)
