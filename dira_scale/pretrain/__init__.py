"""``python -m dira_scale.pretrain experiment=phantom data.shards=OUT run=out/runs/demo``"""

from typing import TYPE_CHECKING

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "pretrain", "self-supervised pretraining", output="run", in_sweeps=True, gpu=True,
    execution=("run", "trust", "reach", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch",
               "data.loader", "data.helper", "data.cache", "data.cache_size", "validate.pictures",
               "validate.restored", "health", "watchdog", "tracker", "profile", "enough_steps"),
    blueprint="dira_scale.pretrain.blueprint:PretrainBlueprint", described=("stages", "model", "data.size"),
    results="dira_scale.sweep.results:training", headline="[^/]*/val/loss",
)  # fmt: skip


def pretrain(cfg: "DictConfig") -> int:
    """Train as configured, resuming from the run folder's state; return the exit code."""
    from dira_scale.pretrain.blueprint import PretrainBlueprint
    from dira_scale.training.trainer import Trainer

    return Trainer(PretrainBlueprint(cfg)).run()


def _look(cfg: "DictConfig") -> None:
    from dira_scale.data.present import check_present

    check_present(cfg.data.shards)


main = entry(COMMAND, pretrain, _look)
