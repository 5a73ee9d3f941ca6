"""The data of a fine-tuning run, opened and checked before anything is built."""

from dataclasses import dataclass
from pathlib import Path

from dira_scale.base.config.border import advised, at
from dira_scale.base.errors import DimensionsError, UserError
from dira_scale.dataset.metrics.libraries import require_libraries
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.held_out import check_evaluation, check_scored, held_out_views, judged_batches
from dira_scale.judge.evaluation.leak import Leak, Part, check_leak, own_source, sources_of
from dira_scale.judge.tasks.task import Supervision
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.distributed.control import on_main, raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.task import StagePlan
from dira_scale.train.inputs import Inputs
from dira_scale.train.models.hub import weights_fact
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.folder import recorded_config
from dira_scale.train.schedule import stage_plans


@dataclass(frozen=True)
class Opened:
    """The data, what is learned of them, and the stages in steps."""

    data: Inputs
    supervision: Supervision
    stages: list[StagePlan]

    def facts(self, config: Finetune) -> dict[str, str]:
        """Return what must be the same on all processes, by its name in messages."""
        return self.data.facts() | weights_fact(config.init, "init")


def open_data(config: Finetune, views: ViewSpec, world: World) -> Opened:
    """Open the datasets, and look whether the task can be learned and judged on them. Collective.

    Raises UserError on all processes.
    """
    return raise_on_all(lambda: _opened(config, views, world))


def _opened(config: Finetune, views: ViewSpec, world: World) -> Opened:
    require_libraries()
    held_out = held_out_views(config, views)
    try:
        with at("task", {"names": config.task.names_key}):
            data = Inputs.of(config, views, world, **config.task.input_arguments(), held_out_views=held_out)
    except DimensionsError as error:
        whole = "preset=volumes_small, or init= a run on volumes"
        raise UserError(f"{advised(error)}{f'; on volumes: {whole}' * (views.dimensions == 2)}") from error
    data.require_channels(config.model.name, config.channels or config.model.channels, config.init)
    supervision = config.task.supervision(data)
    check_evaluation(config, views, supervision)
    check_scored(config, data, supervision)
    if config.data.test_split is not None:
        judged_batches(config, data, "test_split")
    return Opened(data, supervision, stage_plans(config, data.steps_per_epoch))


def leak_of(config: Finetune, data: Inputs, world: World) -> Leak | None:
    """Return, on the main process, the check that the run in the folder has recorded, as its data cannot change;
    without one, compare now. Collective.

    Raises UserError as ``check_leak``, on all processes.
    """
    return on_main(world, lambda: _compared(config, data))


def _compared(config: Finetune, data: Inputs) -> Leak:
    folder = Path(config.run)
    checkpoints = checkpoint.locate_folder(folder, config.checkpoint.folder)
    with checkpoint.as_user_error(checkpoints):
        recorded = recorded_config(folder, checkpoints).get("leak")
    if recorded:
        return Leak(**recorded)
    splits = [split for split in (config.data.val_split, config.data.test_split) if split is not None]
    judged = [Part.of(dataset, split) for split in dict.fromkeys(splits) for dataset in data.datasets]
    sources = [own_source(data), *sources_of(config.init, "init", data.datasets)]
    return check_leak(judged, config.data.test_split, sources)
