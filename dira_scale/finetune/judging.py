"""Held-out images in fine-tuning: their views, checks of what is asked of them, and the best checkpoint on the held-out
splits: ``results.json`` and the cases beside it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from dira_scale.base.config.border import at
from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import write_json
from dira_scale.finetune.config import Finetune
from dira_scale.finetune.description import TENSORS
from dira_scale.judge.evaluation.config import CENTRE
from dira_scale.judge.evaluation.held_out_split import HeldOutSplit
from dira_scale.judge.evaluation.inference import held_out_crops
from dira_scale.judge.evaluation.judge import choose, judged, write_split
from dira_scale.judge.evaluation.leak import Leak
from dira_scale.judge.evaluation.results import FILE, overall, read_results
from dira_scale.judge.evaluation.whole_volumes import WholeVolumes
from dira_scale.judge.tasks.masks import Segmentation
from dira_scale.judge.tasks.predictions import SplitCases
from dira_scale.judge.tasks.task import Supervision
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import ViewSpec, fixed_views
from dira_scale.train.distributed.control import broadcast_from_main, raise_on_all
from dira_scale.train.distributed.world import World
from dira_scale.train.engine.task import StagePlan
from dira_scale.train.held_out import HeldOutBatches
from dira_scale.train.inputs import Inputs
from dira_scale.train.methods.build import check_dimensions
from dira_scale.train.models.network import moved
from dira_scale.train.models.normalise import check_channels, input_of, normalised
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.folder import RunFolder
from dira_scale.train.runs.lora import merged


def held_out_views(config: Finetune, views: ViewSpec, crops: str = CENTRE) -> ViewSpec:
    """Crops of a share of each image, or, where training's have a size in voxels, of the view's size."""
    chosen = held_out_crops(views.sides, crops, config.evaluate.share)
    return fixed_views(views.size, chosen, **views.stored)


def check_evaluation(config: Finetune, views: ViewSpec, supervision: Supervision) -> None:
    """Raise UserError for views that the network does not take, for several views in training,
    and for an evaluation that the task does not have."""
    check_dimensions(config.model, views)
    if views.count != 1:
        raise UserError(f"views.count={views.count}: fine-tuning has one view of each image; use views.count=1")
    evaluate = config.evaluate
    if evaluate.crops != CENTRE and not supervision.pooled:
        raise UserError(f"evaluate.crops={evaluate.crops}: masks are judged on one crop; use {CENTRE}")
    if evaluate.share < 1 and not supervision.pooled:
        raise UserError(f"evaluate.share={evaluate.share}: masks are judged on the whole image; use 1")
    if evaluate.temperature and not supervision.calibrates:
        raise UserError("evaluate.temperature=true: temperature scaling is of labels; use false")
    if evaluate.temperature and config.data.val_split is None:
        raise UserError("evaluate.temperature=true: it is fitted on the validation split, and data.val_split=null")
    if evaluate.window is not None and supervision.pooled:
        raise UserError(f"evaluate.window={evaluate.window}: windows are of masks; use null")
    volumes = config.validate.volumes
    if volumes and (supervision.pooled or views.dimensions != 3 or config.data.val_split is None):
        raise UserError(f"validate.volumes={volumes}: it is of masks of volumes, on data.val_split; use null")
    with at(""):
        check_channels(config.normalise, config.channels or config.model.channels)


def check_scored(config: Finetune, data: Inputs, supervision: Supervision) -> None:
    """Raise UserError if checkpoints are compared by a figure that the validation split cannot have."""
    split, validate = config.data.val_split, config.validate
    if split is None or validate.best is not None:
        return
    samples = None if validate.batches is None else validate.batch * validate.batches
    if why := supervision.unscored(data, split, samples):
        raise UserError(
            f"data.val_split={split}: {why}, so there is no {supervision.best.metric.upper()} to compare checkpoints "
            "by: use a larger split, or validate.best=loss"
        )


def whole_volumes(config: Finetune, data: Inputs, supervision: Supervision, world: World) -> WholeVolumes | None:
    """Return the volumes by which checkpoints are compared; None: there are none. Raises DatasetError where none has a
    mask."""
    validate = config.validate
    if validate.volumes is None:
        return None
    samples = Samples(data.datasets, str(config.data.val_split), views=data.held_out_views)
    samples.require_masks()
    return WholeVolumes(
        samples, cast(Segmentation, supervision), data.views.sides, validate.volumes, validate.windows, validate.batch,
        world.rank, world.ranks,
    )  # fmt: skip


def judged_batches(config: Finetune, data: Inputs, key: str, rank: int = 0, ranks: int = 1) -> HeldOutBatches:
    """This rank's share of a whole split, ``key`` being ``val_split`` or ``test_split``, by the crops of the test.

    Raises UserError if there is none.
    """
    views = held_out_views(config, data.views, config.evaluate.crops)
    batch = max(1, config.validate.batch // views.count)
    return data.evaluation(f"data.{key}", getattr(config.data, key), views, batch, None, rank, ranks)


def write_results(
    config: Finetune,
    world: World,
    supervision: Supervision,
    data: Inputs,
    stage: StagePlan,
    run: RunFolder | None,
    leak: Leak | None,
    passes: int,
) -> None:
    """Evaluate the stage's best checkpoint, unless that is done; where nothing was validated, the newest one. ``run``
    and ``leak``: on the main process only. Collective.

    ``passes``: over how many batches BatchNorm's statistics were averaged.
    """
    folder, unvalidated = Path(config.run), config.data.val_split is None
    path = raise_on_all(lambda: checkpoint.latest(folder) if unvalidated else checkpoint.best(folder, stage.name))

    def done() -> bool:
        if run is None or not (run.folder / FILE).exists():
            return False
        return bool(read_results(run.folder)["step"] == int(path.name))  # another: the disk was full then

    if broadcast_from_main(raise_on_all(done)):
        return
    network = raise_on_all(lambda: best_network(config, supervision, path))
    network = moved(network, world.device, config.parallel.channels_last)
    input, window = input_of(data.views.sides, config.normalise), config.evaluate.window_of(data.views.dimensions)

    def predicted(images: Tensor) -> Tensor:
        with world.autocast():
            return supervision.predicted(network(normalised(images, input)))

    names = {"val": config.data.val_split, "test": config.data.test_split}
    names = {name: split for name, split in names.items() if split is not None}
    splits = {name: judged_batches(config, data, f"{name}_split", world.rank, world.ranks) for name in names}
    cases, without_mask = dict[str, list[Any]](), dict[str, int]()
    for name, batches in splits.items():
        split = HeldOutSplit(
            data.datasets, SplitCases(data.datasets, str(names[name])), predicted, world.device, batches,
            input.size, data.views.stored, window, data.workers, shows=run is not None and name == "test",
        )  # fmt: skip
        cases[name] = split.cases(supervision, network)
        without_mask[name] = split.without_mask(cases[name])
        if run is not None:
            run.lease.check()
            write_split(run.folder, name, cases[name], split.pictures)
    if run is None:
        return
    chosen = choose(supervision, cases.get("val"), config.evaluate.temperature)
    seen = {"crops": config.evaluate.crops} if supervision.pooled else {"window": window, "without_mask": without_mask}
    estimated = {"norm_passes": passes} if passes else {}
    content = {"step": int(path.name), "splits": names} | judged(supervision, cases, chosen) | seen | estimated
    write_json(run.folder / FILE, content | ({} if leak is None else {"leak": asdict(leak)}), run.lease.check)


def summary(folder: Path, best: str) -> str:
    """The test split's figures over all labels or classes in a line; without one, the validation split's."""
    content = read_results(folder)
    split = next(name for name in ("test", "val") if name in content["figures"])
    words = ", ".join(figure.in_words() for figure in overall(content["figures"][split], best))
    words = words or "no figure over all labels"
    judged = "test" if split == "test" else "no test split, so by the validation"
    return f"{judged} split '{content['splits'][split]}', checkpoint of step {content['step']}: {words} ({FILE})"


def best_network(config: Finetune, supervision: Supervision, path: Path) -> nn.Module:
    """Return the complete network with the weights of the checkpoint in ``path``."""
    tensors, prefix = merged(checkpoint.load(path)[0]), f"{TENSORS[supervision.pooled].module}."
    size = config.data.size if isinstance(config.data.size, int) else tuple(config.data.size)
    network = supervision.network(config.model, config.model.build_encoder(size, config.channels))
    network.load_state_dict({name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)})
    return network
