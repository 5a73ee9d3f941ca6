"""``accelerate launch -m dira_scale.pretrain experiment=phantom data.shards=OUT run=out/runs/demo``"""

import traceback
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dira_scale import methods
from dira_scale.config import Pretrain, run_verb
from dira_scale.methods.adversary import Adversary
from dira_scale.train import parallel
from dira_scale.train import run as runs
from dira_scale.train.inputs import Inputs
from dira_scale.train.loop import Trainer


def pretrain(cfg: DictConfig) -> int:
    """Train as ``cfg`` says, going on where the run folder stands; returns the exit code."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Pretrain)
    accelerator = parallel.start(config.parallel, config.precision)
    parallel.micro_batch(config.data.batch, accelerator.num_processes, config.parallel.accumulate)
    views = instantiate(cfg.views, size=config.data.size, _convert_="all")
    inputs = Inputs(config.data, views, config.seed, accelerator.process_index, accelerator.num_processes)
    torch.manual_seed(config.seed)
    method = methods.build(cfg.method, cfg.model, views, config.data.batch, config.parallel.accumulate)
    adversary = Adversary()
    content: Any = OmegaConf.to_container(cfg)
    content["datasets"] = [dataset.hash for dataset in inputs.datasets]
    run = parallel.on_main(accelerator, lambda: runs.Run(Path(config.run), content))
    try:
        trainer = Trainer(config, accelerator, inputs, method, adversary, run)
        return _train(trainer, accelerator, run)
    except BaseException as error:
        traceback.print_exc()
        if run is not None:
            run.log(traceback.format_exc())
            run.status("failed", step=0, exit_code=runs.FAILED, reason=f"{type(error).__name__}: {error}")
        raise
    finally:
        if run is not None:
            run.lease.release()


def _train(trainer: Trainer, accelerator: Accelerator, run: runs.Run | None) -> int:
    ended = trainer.train()
    code = runs.INTERRUPTED if ended == "interrupted" else runs.DONE
    if run is not None:
        run.status(ended, trainer.progress.step, exit_code=code)
    accelerator.end_training()
    return code


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("pretrain", pretrain, argv)


if __name__ == "__main__":
    raise SystemExit(main())
