"""Training from a command, a script or a notebook: a blueprint, trained to its end in its run folder."""

from pathlib import Path

from omegaconf import DictConfig

from dira_scale.base.config.logs import collected_errors
from dira_scale.base.errors import UserError
from dira_scale.train.blocks import settle_block
from dira_scale.train.blueprint import Blueprint, blueprint_of
from dira_scale.train.distributed.launcher import check_launch
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.run import Train, run_task
from dira_scale.train.runs.exit_codes import BAD_INPUT, FAILED, INTERRUPTED
from dira_scale.train.runs.reader import RunReader


class Trainer:
    """Trains what a blueprint says, in this process or in each of several.

    Example:
        >>> from dira_scale.base.config.compose import compose
        >>> from dira_scale.pretrain.blueprint import PretrainBlueprint
        >>> cfg = compose("pretrain", ["experiment=small", "data.shards=out/shards/mine", "run=out/runs/mine"])
        >>> run = Trainer(PretrainBlueprint(cfg)).train()  # doctest: +SKIP
    """

    def __init__(self, blueprint: Blueprint) -> None:
        self.blueprint = blueprint

    def train(self) -> RunReader:
        """Train, or resume, and return the run.

        Raises:
            UserError: bad input; nothing was changed.
            RuntimeError: training failed; with the reason.
        """
        with collected_errors() as errors:
            code = self.run()
        if code in (BAD_INPUT, FAILED):
            run = self.blueprint.config.run
            raise (UserError if code == BAD_INPUT else RuntimeError)("; ".join(errors) or f"run={run}: see log.txt")
        run = Path(self.blueprint.config.run)
        if code == INTERRUPTED and not (run / "config.yaml").exists():
            raise RuntimeError(f"run={run}: interrupted before its first step; the same call continues")
        return RunReader(run)

    def run(self) -> int:
        """Train, or resume, and return the exit code of the command."""
        config = self.blueprint.config
        check_launch(config.parallel, config.precision, config.optim.clip)

        def before(world: World, train: Train) -> int:
            settle_block(config, self.blueprint.cfg, world)
            return self.blueprint.before(world, train)

        return run_task(config, self.blueprint.cfg, self.blueprint.task, before)


def train(command: str, cfg: DictConfig) -> int:
    """Train as ``cfg`` says, resuming from the run folder's state; return the exit code of ``command``."""
    return Trainer(blueprint_of(command, cfg)).run()
