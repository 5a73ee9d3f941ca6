"""``python -m dira_scale.finetune task=labels data.shards=OUT init=out/runs/demo run=out/runs/tuned``"""

from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "finetune", "train on labels, masks or numbers, from pretrained weights", output="run", in_sweeps=True, gpu=True,
    execution=("run", "trust", "reach", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch",
               "data.loader", "data.helper", "data.cache", "data.cache_size", "watchdog", "tracker", "profile",
               "enough_steps"),
    blueprint="dira_scale.finetune.blueprint:FinetuneBlueprint", described=("stages", "model", "data.size", "task"),
    results="dira_scale.evaluation.results:evaluated", compare="dira_scale.evaluation.comparison:compared",
    headline="test/(AUROC|accuracy|Dice|R2)/(mean|all classes)$",
)  # fmt: skip


def finetune(cfg: "DictConfig") -> int:
    """Train as configured, resuming from the run folder's state; return the exit code."""
    from dira_scale.finetune.blueprint import FinetuneBlueprint
    from dira_scale.training.trainer import Trainer

    return Trainer(FinetuneBlueprint(cfg)).run()


def _look(cfg: "DictConfig") -> None:
    from dira_scale.data.present import check_present
    from dira_scale.metrics.libraries import require_libraries

    require_libraries()
    check_present(cfg.data.shards)


main = entry(COMMAND, finetune, _look)
