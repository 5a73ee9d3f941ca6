"""``python -m dira_scale.evaluate run=RUN data.shards=OTHER out=FOLDER``: figures of a fine-tuned run on any dataset.

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
    "evaluate", "figures of a fine-tuned run on any labelled dataset", output="out", in_sweeps=True, gpu=True,
    reads_run=True, execution=("batch", "data.workers", "trust", "reach"), check="dira_scale.evaluate.config:check",
    results="dira_scale.evaluation.results:evaluated", compare="dira_scale.evaluation.comparison:compared_evaluations",
    headline="test/(AUROC|accuracy|Dice|R2)/(mean|all classes)$",
)  # fmt: skip


def evaluate(cfg: "DictConfig") -> None:
    """Write figures with intervals, the rows of all cases and a page to ``out``."""
    from omegaconf import OmegaConf

    from dira_scale.data.present import check_present
    from dira_scale.metrics.libraries import require_libraries

    if not Path(cfg.run).is_dir():
        raise UserError(f"run={cfg.run} is not a folder: name a fine-tuned run, or its export")
    check_present(cfg.data.shards)
    require_libraries()
    from dira_scale.evaluate.make import make

    config: Any = OmegaConf.to_object(cfg)
    make(config)


main = entry(COMMAND, evaluate)
