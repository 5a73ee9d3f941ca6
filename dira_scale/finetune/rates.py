"""The rate of a run, chosen on the validation split: a run of each candidate, then the run itself with the best one's.

::

    rates/0.001/ …      in the run's folder: candidates, runs like any other, but without a test split
"""

from copy import deepcopy
from pathlib import Path

from omegaconf import DictConfig

from dira_scale.distributed.control import broadcast_from_main, raise_on_all
from dira_scale.distributed.world import World
from dira_scale.engine.config import NONE
from dira_scale.engine.run import Train
from dira_scale.finetune.config import Finetune
from dira_scale.runs import checkpoint
from dira_scale.runs.exit_codes import DONE
from dira_scale.runs.folder import recorded_config
from dira_scale.runs.reader import RunReader
from dira_scale.storage.owned import own
from dira_scale.training.blueprint import Blueprint

FOLDER = "rates"


def choose_rate(blueprint: Blueprint, world: World, train: Train) -> int:
    """Set the rate of ``blueprint`` to the one in ``optim.choose`` whose run has the best validation figure, and return
    the exit code of the last candidate. Collective.

    What the run has recorded is not chosen again, and a candidate that is done not trained again. All have the run's
    seed. Raises UserError as the run itself would, before the first candidate is trained.
    """
    config: Finetune = blueprint.config
    folders = {rate: Path(config.run) / FOLDER / f"{rate:g}" for rate in config.optim.choose or []}

    def recorded() -> dict[str, float]:
        checkpoints = checkpoint.locate_folder(Path(config.run), config.checkpoint.folder)
        with checkpoint.as_user_error(checkpoints):
            return dict(recorded_config(Path(config.run), checkpoints).get("optim", {}).get("chosen", {}))

    described = blueprint.describe()
    better = max if described.metrics[described.best].direction == "max" else min
    chosen = broadcast_from_main(raise_on_all(recorded if world.main else dict))
    if not chosen:
        blueprint.task(world)
        raise_on_all(lambda: own(Path(config.run), "run", "run") if world.main else None)
        for rate, folder in folders.items():
            candidate = type(blueprint)(_candidate(blueprint.cfg, rate, folder))
            if code := train(candidate.config, candidate.cfg, candidate.task):
                return code

        def figures() -> dict[str, float]:
            rows = {rate: RunReader(folder).rows() for rate, folder in folders.items()}
            return {
                f"{rate:g}": better(
                    row[described.best] for row in of if row["split"] == "val" and row[described.best] is not None
                )
                for rate, of in rows.items()
            }

        chosen = broadcast_from_main(raise_on_all(figures if world.main else dict))
    for optim in (config.optim, blueprint.cfg.optim):
        optim.chosen = chosen
        optim.optimizer["lr"] = float(better(chosen, key=chosen.__getitem__))
    return DONE


def _candidate(cfg: DictConfig, rate: float, folder: Path) -> DictConfig:
    """Return the configuration of the run by which ``rate`` is judged."""
    cfg = deepcopy(cfg)
    if cfg.checkpoint.folder is not None:
        cfg.checkpoint.folder = f"{cfg.checkpoint.folder}/{FOLDER}/{rate:g}"
    cfg.run, cfg.optim.optimizer.lr, cfg.optim.choose = str(folder), rate, None
    cfg.epoch_factor *= cfg.optim.choose_share
    cfg.data.test_split = cfg.steps = cfg.enough_steps = None
    cfg.evaluate.temperature, cfg.tracker = False, NONE
    return cfg
