"""Restoration tasks: undo a distortion pixel by pixel (DiRA, eq. 2, with a distance "such as L1 or L2"), or fill in
what a mask hides (He et al., CVPR 2022, sec. 3)."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from dira_scale.data.batch import Batch
from dira_scale.data.distort.corruptions.mask import spread
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError

# Mean over all pixels of (restored - target)^2 or |restored - target|, both [b, 1, *size] in [0, 1].
RESTORATION_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {"mse": F.mse_loss, "l1": F.l1_loss}
)
MASK = "mask"  # the corruption that hides blocks, and its parameter


def check_single(method: str, views: ViewSpec) -> None:
    """Raise ``UserError`` unless ``method`` gets one view."""
    if views.count != 1:
        raise UserError(f"views.count={views.count}: {method} restores one view; use views.count=1")


def mask_blocks(views: ViewSpec, key: str) -> tuple[int, ...]:
    """The blocks of a view on each axis that ``views.corruptions.mask`` hides or leaves.

    Raises ``UserError``, for what ``key`` names, if there is no such mask, or it is not where the target has it.
    """
    names = [*views.corruptions]
    if MASK not in names:
        config = "mae" if views.dimensions == 2 else "mae3d"
        more = f" views.count={views.count}" if views.count > 1 else ""
        raise UserError(f"{key}: the views hide nothing, they have no views.corruptions.mask; use views={config}{more}")
    if names[-1] != MASK:
        raise UserError(f"views.corruptions: {names[-1]} after mask would change what is hidden; put mask last")
    if views.target_flip != "with_input":
        raise UserError(f"views.target_flip={views.target_flip}: {key} needs targets where the view has its mask; "
                        "use views.target_flip=with_input")  # fmt: skip
    mask, size = views.corruptions[MASK], views.sides
    return tuple(mask.draw(np.zeros((1, mask.numbers(size)), np.float32), size)[MASK].shape[1:])


def blocks_hidden(batch: Batch, view: int) -> Tensor:
    """bool [b, *blocks], true where the mask of a distorted ``view`` hides."""
    return batch.distortions[view].corruptions[MASK][MASK]


def hidden_voxels(batch: Batch, view: int, size: Sequence[int]) -> Tensor:
    """bool [b, 1, *size], true where the mask of a distorted ``view`` hides."""
    return spread(blocks_hidden(batch, view), size)[:, None]


def hidden_mean(errors: Tensor, hidden: Tensor) -> Tensor:
    """The mean of ``errors`` [b, 1, *size] over each sample's ``hidden`` voxels, then over samples."""
    return (errors.masked_fill(~hidden, 0.0).flatten(1).sum(1) / hidden.flatten(1).sum(1).clamp(min=1)).mean()
