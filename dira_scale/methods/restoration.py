"""What methods that restore ask of their views, and where a mask hides (He et al., CVPR 2022, sec. 3)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dira_scale.data.batch import Batch, per_sample
from dira_scale.data.distort.corruptions.mask import spread
from dira_scale.data.distort.corruptions.patches import PatchMask
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError
from dira_scale.models.network import Encoder, pyramid_sizes

MASK = "mask"  # the corruption that hides blocks, and its parameter


def check_single(method: str, views: ViewSpec) -> None:
    """Raise ``UserError`` unless ``method`` gets one view, which is of one size."""
    if views.count != 1:
        raise UserError(f"views.count={views.count}: {method} restores one view; use views.count=1")


def of_known(restored: Tensor, target: Tensor, batch: Batch, views: int = 1) -> Tensor:
    """``restored`` [v·b, C, *size], of the first ``views``, but as the ``target`` in channels that an image lacks: they
    teach nothing, and no figure counts them."""
    lacking = batch.lacking(0, views)
    return restored if lacking is None else torch.where(per_sample(lacking, restored), target, restored)


def patch_maps(method: str, encoder: Encoder, sides: Sequence[int]) -> list[list[int]]:
    """Return the sizes of ``encoder``'s maps (``pyramid_sizes``) of patches of views, of these ``sides``, which
    ``method`` shows it. Raises ``UserError`` if it takes none such."""
    if encoder.fixed_size:
        raise UserError(
            f"{method}: {encoder.name} takes images of one size, and patches are smaller; use a convolutional network, "
            "such as model.encoder=resnet50 or model=unet3d"
        )
    try:
        return pyramid_sizes(encoder, sides)
    except (RuntimeError, ValueError) as error:
        size, reason = " x ".join(map(str, sides)), str(error).splitlines()[0]
        raise UserError(
            f"{method}: {encoder.name} takes no patches of {size} ({reason}); use a larger data.size, or fewer patches"
        ) from error


def mask_blocks(views: ViewSpec, key: str, hides: bool = False) -> np.ndarray:
    """One mask that ``views.corruptions.mask`` may draw: bool [*blocks], true where hidden.

    Raises ``UserError``, for what ``key`` names, if there is no such mask, or it is not where the target has it, or it
    leaves pixels as they are and no method ``hides`` these patches.
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
    if isinstance(mask, PatchMask) and not hides:
        raise UserError(f"{key}: {type(mask).__name__} hides nothing but tokens of DINOv2's student; use BlockMask, as "
                        f"views={'mae' if views.dimensions == 2 else 'mae3d'} has")  # fmt: skip
    drawn: np.ndarray = mask.draw(np.zeros((1, mask.numbers(size)), np.float32), size)[MASK][0]
    return drawn


def patch_grid(encoder: Encoder, size: Sequence[int], blocks: Sequence[int], key: str) -> tuple[int, ...]:
    """Patches of ``encoder`` on each axis of a view of ``size``, of which each of ``blocks`` holds whole ones.

    Raises ``UserError``, for what ``key`` names, if the encoder cannot take some patches alone, or blocks cut them.
    """
    if (side := encoder.visible_patch) is None:
        other = "model=vit3d or " if encoder.dimensions == 3 else ""
        raise UserError(f"{key}: {encoder.name} cannot leave patches out; use {other}method.masking=dense")
    if any(n % (count * side) for n, count in zip(size, blocks, strict=True)):
        raise UserError(
            f"{key}: blocks must have sides that are multiples of {side}, a patch of {encoder.name}; use "
            f"views.corruptions.mask.block={side}"
        )
    return tuple(n // side for n in size)


def blocks_hidden(batch: Batch, view: int) -> Tensor:
    """bool [b, *blocks], true where the mask of a distorted ``view`` hides."""
    return batch.distortions[view].corruptions[MASK][MASK]


def hidden_voxels(batch: Batch, view: int, size: Sequence[int]) -> Tensor:
    """bool [b, 1, *size], true where the mask of a distorted ``view`` hides."""
    return spread(blocks_hidden(batch, view), size)[:, None]
