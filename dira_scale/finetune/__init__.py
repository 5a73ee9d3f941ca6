"""``python -m dira_scale.finetune task=labels data.shards=OUT init=out/runs/demo run=out/runs/tuned``"""

from typing import TYPE_CHECKING, Any

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "finetune", "train on labels or masks, from pretrained weights", output="run", in_sweeps=True, gpu=True,
    trains=True,
    execution=("run", "trust", "reach", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch",
               "data.loader", "data.helper", "data.cache", "data.cache_size", "watchdog", "tracker", "enough_steps"),
    check="dira_scale.finetune.check:check", plan="dira_scale.forecast.finetuning:planned",
    describe="dira_scale.finetune.description:describe", described=("stages", "model", "data.size", "task"),
    results="dira_scale.finetune.results:finetuning", compare="dira_scale.evaluation.comparison:compared",
    headline="test/(AUROC|accuracy|Dice)/(mean|all classes)$",
)  # fmt: skip


def finetune(cfg: "DictConfig") -> int:
    """Train as configured, resuming from the run folder's state; return the exit code."""
    from omegaconf import OmegaConf

    from dira_scale.distributed.launcher import check_launch
    from dira_scale.engine.run import run_task
    from dira_scale.finetune.config import Finetune
    from dira_scale.finetune.task import FinetuneTask

    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Finetune)
    check_launch(config.parallel, config.precision, config.optim.clip)
    return run_task(config, cfg, lambda world: FinetuneTask.build(config, cfg, world))


def _look(cfg: "DictConfig") -> None:
    from dira_scale.data.present import check_present
    from dira_scale.metrics.libraries import require_libraries

    require_libraries()
    check_present(cfg.data.shards)


main = entry(COMMAND, finetune, _look)
