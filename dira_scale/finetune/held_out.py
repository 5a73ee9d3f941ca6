"""Held-out images in fine-tuning: their views, and checks of what is asked of them."""

from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.libraries import require_libraries
from dira_scale.finetune.config import Finetune
from dira_scale.judge.evaluation.config import CENTRE, IMAGENET
from dira_scale.judge.evaluation.inference import held_out_crops
from dira_scale.judge.tasks.task import Supervision
from dira_scale.train.data.views import ViewSpec, fixed_views
from dira_scale.train.held_out import HeldOutBatches
from dira_scale.train.inputs import Inputs
from dira_scale.train.methods.build import check_dimensions


def held_out_views(config: Finetune, views: ViewSpec, crops: str = CENTRE) -> ViewSpec:
    """Crops of a share of each image, or, where training's have a size in voxels, of the view's size."""
    chosen = held_out_crops(views.sides, crops, config.evaluate.share)
    return fixed_views(views.size, chosen, **views.stored)


def check_evaluation(config: Finetune, views: ViewSpec, supervision: Supervision) -> None:
    """Raise UserError for missing libraries, for views that the network does not take, for several views in training,
    and for an evaluation that the task does not have."""
    require_libraries()
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
    if config.normalise == IMAGENET and (channels := config.channels or config.model.channels) != 3:
        raise UserError(
            f"normalise={IMAGENET}: ImageNet's images have three channels, {config.model.name} takes "
            f"{channels}; use none"
        )


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


def judged_batches(config: Finetune, data: Inputs, key: str, rank: int = 0, ranks: int = 1) -> HeldOutBatches:
    """This rank's share of a whole split, ``key`` being ``val_split`` or ``test_split``, by the crops of the test.

    Raises UserError if there is none.
    """
    views = held_out_views(config, data.views, config.evaluate.crops)
    batch = max(1, config.validate.batch // views.count)
    return data.evaluation(f"data.{key}", getattr(config.data, key), views, batch, None, rank, ranks)
