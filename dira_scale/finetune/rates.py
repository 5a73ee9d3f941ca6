"""The rate of a run, chosen on the validation split: a run of each candidate, then the run itself with the best one's.

::

    rates/0.001/ …      in the run's folder: candidates, runs like any other, but without a test split
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from dira_scale.base.errors import UserError
from dira_scale.base.storage.owned import own
from dira_scale.base.storage.store import remove
from dira_scale.finetune.config import Finetune
from dira_scale.train.blueprint import Blueprint
from dira_scale.train.distributed.control import AgreedError, broadcast_from_main, on_main, raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.config import NONE
from dira_scale.train.engine.nan_guard import NotFiniteError
from dira_scale.train.engine.run import Train
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.exit_codes import DONE
from dira_scale.train.runs.folder import recorded_in
from dira_scale.train.runs.reader import RunReader

FOLDER = "rates"


def choose_rate(blueprint: Blueprint, world: World, train: Train) -> int:
    """Set the rate of ``blueprint`` to the one in ``optim.choose``, if there are any, whose run has the best validation
    figure, and return the exit code of the last candidate. Collective.

    What the run has recorded is not chosen again, and a candidate that is done not trained again. All have the run's
    seed. One that diverges is not chosen. Raises UserError as the run itself would, before the first candidate is
    trained.
    """
    config: Finetune = blueprint.config
    if not config.optim.choose:
        return DONE
    folders = {rate: Path(config.run) / FOLDER / f"{rate:g}" for rate in config.optim.choose}
    checkpoints = checkpoint.locate_folder(Path(config.run), config.checkpoint.folder)

    def recorded() -> dict[str, float]:
        before = recorded_in(Path(config.run), config.checkpoint.folder)
        if before and not before["optim"].get("chosen"):
            raise UserError(f"run={config.run} has begun without optim.choose: name another folder")
        return dict(before["optim"]["chosen"]) if before else {}

    def claim() -> None:
        """Mark the folders as the run's, before those of candidates stand in them."""
        if config.checkpoint.folder is not None:
            with checkpoint.as_user_error(checkpoints):
                own(checkpoints, "checkpoints", "checkpoint.folder")
        own(Path(config.run), "run", "run")

    described = blueprint.describe()
    better = max if described.metrics[described.best].direction == "max" else min
    chosen = broadcast_from_main(raise_on_all(recorded if world.main else dict))
    if not chosen:
        blueprint.task(world)
        on_main(world, claim)
        for rate, folder in list(folders.items()):
            candidate = type(blueprint)(_candidate(blueprint.cfg, rate, folder))
            try:
                if code := train(candidate.config, candidate.cfg, partial(_unjudged, candidate.task)):
                    return code
            except NotFiniteError:  # on all processes; it has said where
                del folders[rate]
        if not folders:
            raise AgreedError(f"optim.choose={config.optim.choose}: training diverges with each: name lower rates")

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


def forget_candidates(config: Finetune) -> None:
    """Remove the checkpoints of the candidates, which nothing reads once the run itself is done. On the main process.

    Raises UserError if the store does not answer.
    """
    for rate in config.optim.chosen:
        run, theirs = Path(config.run) / FOLDER / rate, config.checkpoint.folder
        folder = checkpoint.locate_folder(run, None if theirs is None else f"{theirs}/{FOLDER}/{rate}")
        with checkpoint.as_user_error(folder):
            remove(folder)


def _unjudged(make: Callable[[World], Any], world: World) -> Any:
    task = make(world)
    task.judged = False
    return task


def _candidate(cfg: DictConfig, rate: float, folder: Path) -> DictConfig:
    """Return the configuration of the run by which ``rate`` is judged."""
    cfg = deepcopy(cfg)
    if cfg.checkpoint.folder is not None:
        cfg.checkpoint.folder = f"{cfg.checkpoint.folder}/{FOLDER}/{rate:g}"
    cfg.run, cfg.optim.optimizer.lr, cfg.optim.choose = str(folder), rate, None
    cfg.epoch_factor *= cfg.optim.choose_share
    cfg.data.test_split = cfg.steps = cfg.enough_steps = None
    cfg.evaluate.temperature, cfg.tracker, cfg.profile.steps = False, NONE, None
    return cfg
