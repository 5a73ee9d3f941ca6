"""``python -m dira_scale.pretrain experiment=phantom data.shards=OUT run=out/runs/demo``

torch is imported inside the functions: a typing mistake is named within a second.
"""

import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import check_words, run_verb


def pretrain(cfg: DictConfig) -> int:
    """Train as configured, resuming from the run folder's state; returns the exit code."""
    from dira_scale.distributed.launcher import check_launch
    from dira_scale.engine.run import run_task
    from dira_scale.pretraining.config import Pretrain
    from dira_scale.pretraining.task import PretrainTask

    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Pretrain)
    check_launch(config.parallel, config.precision, config.optim.clip)
    return run_task(config, cfg, lambda world: PretrainTask.build(config, cfg, world))


def _look(cfg: DictConfig) -> None:
    if any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
        return  # what only one of several processes lacks is told when they have met: the others would wait for it
    from dira_scale.data.present import check_present

    check_present(OmegaConf.to_container(cfg.data, resolve=True)["shards"])  # type: ignore[call-overload,index]


def main(argv: list[str] | None = None) -> int:
    """The verb; each of several processes exits through here."""
    if code := check_words("pretrain", argv, _look):
        return code
    from dira_scale.distributed.processes import leave

    return leave(lambda: run_verb("pretrain", pretrain, argv))


if __name__ == "__main__":
    raise SystemExit(main())
