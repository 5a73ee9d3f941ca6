"""``python -m dira_scale.finetune task=labels data.shards=OUT init=out/runs/demo run=out/runs/tuned``

torch is imported inside the functions: a typing mistake is named within a second.
"""

import os
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import check_words, run_verb


def finetune(cfg: DictConfig) -> int:
    """Train as configured, resuming from the run folder's state; returns the exit code."""
    from dira_scale.distributed.launcher import check_launch
    from dira_scale.engine.run import run_task
    from dira_scale.evaluation.finetune.config import Finetune
    from dira_scale.evaluation.finetune.task import FinetuneTask

    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Finetune)
    check_launch(config.parallel, config.precision, config.optim.clip)
    return run_task(config, cfg, lambda world: FinetuneTask.build(config, cfg, world))


def _look(cfg: DictConfig) -> None:
    if any(int(os.environ.get(name) or 1) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
        return  # what only one of several processes lacks is told when they have met: the others would wait for it
    from dira_scale.data.present import check_present
    from dira_scale.metrics.libraries import require_libraries

    require_libraries()
    check_present(OmegaConf.to_container(cfg.data, resolve=True)["shards"])  # type: ignore[call-overload,index]


def main(argv: list[str] | None = None) -> int:
    """The verb; each of several processes exits through here."""
    if code := check_words("finetune", argv, _look):
        return code
    from dira_scale.distributed.processes import leave

    return leave(lambda: run_verb("finetune", finetune, argv))


if __name__ == "__main__":
    raise SystemExit(main())
