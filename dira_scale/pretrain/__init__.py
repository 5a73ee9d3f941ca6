"""``python -m dira_scale.pretrain experiment=phantom data.shards=OUT run=out/runs/demo``"""

from typing import TYPE_CHECKING, Any

from dira_scale.cli import entry
from dira_scale.command import Command

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMMAND = Command(
    "pretrain", "self-supervised pretraining", output="run", in_sweeps=True, gpu=True, trains=True,
    execution=("run", "trust", "reach", "parallel", "log_every", "checkpoint", "data.workers", "data.prefetch",
               "data.loader", "data.helper", "data.cache", "data.cache_size", "validate.pictures",
               "validate.restored", "health", "watchdog", "tracker", "enough_steps"),
    check="dira_scale.pretrain.check:check", plan="dira_scale.forecast.configured:planned",
    describe="dira_scale.pretrain.description:describe", described=("stages", "model", "data.size"),
    results="dira_scale.sweep.results:training", headline="[^/]*/val/loss",
)  # fmt: skip


def pretrain(cfg: "DictConfig") -> int:
    """Train as configured, resuming from the run folder's state; return the exit code."""
    from omegaconf import OmegaConf

    from dira_scale.distributed.launcher import check_launch
    from dira_scale.engine.run import run_task
    from dira_scale.pretrain.config import Pretrain
    from dira_scale.pretrain.task import PretrainTask

    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Pretrain)
    check_launch(config.parallel, config.precision, config.optim.clip)
    return run_task(config, cfg, lambda world: PretrainTask.build(config, cfg, world))


def _look(cfg: "DictConfig") -> None:
    from dira_scale.data.present import check_present

    check_present(cfg.data.shards)


main = entry(COMMAND, pretrain, _look)
