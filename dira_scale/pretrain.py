"""``python -m dira_scale.pretrain experiment=phantom data.shards=OUT run=out/runs/demo``"""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import run_verb
from dira_scale.distributed.launcher import check_launch
from dira_scale.distributed.processes import leave
from dira_scale.engine.run import run_task
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.task import PretrainTask


def pretrain(cfg: DictConfig) -> int:
    """Train as configured, resuming from the run folder's state; returns the exit code."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Pretrain)
    check_launch(config.parallel, config.precision, config.optim.clip)
    return run_task(config, cfg, lambda world: PretrainTask.build(config, cfg, world))


def main(argv: list[str] | None = None) -> int:
    """The verb; each of several processes exits through here."""
    return leave(lambda: run_verb("pretrain", pretrain, argv))


if __name__ == "__main__":
    raise SystemExit(main())
