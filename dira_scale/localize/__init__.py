"""``python -m dira_scale.localize run=RUN data.shards=OUT out=FOLDER``: boxes from Grad-CAM against a dataset's boxes.

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
    "localize", "boxes of labels by Grad-CAM, and their accuracy", output="out", in_sweeps=True, gpu=True,
    reads_run=True, parts=True, execution=("data.workers", "trust", "reach"), check="dira_scale.localize.cases:check",
    results="dira_scale.localize.results:localizing", compare="dira_scale.localize.results:compared",
    headline="accuracy/mean/",
)  # fmt: skip


def localize(cfg: "DictConfig") -> None:
    """Write the accuracy per label, a row for each box and pictures to ``out``."""
    from omegaconf import OmegaConf

    from dira_scale.data.present import check_present
    from dira_scale.metrics.libraries import require_libraries

    if not Path(cfg.run).is_dir():
        raise UserError(f"run={cfg.run} is not a folder: name a run that was fine-tuned on labels, or its export")
    check_present(cfg.data.shards)
    require_libraries()
    from dira_scale.localize.make import make

    config: Any = OmegaConf.to_object(cfg)
    make(config)


main = entry(COMMAND, localize)
