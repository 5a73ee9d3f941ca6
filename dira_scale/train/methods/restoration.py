"""Checks and masks shared by the methods that restore views (He et al., CVPR 2022, sec. 3)."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.train.data.batch import Batch, per_sample
from dira_scale.train.data.distort.corruptions.mask import spread
from dira_scale.train.data.distort.corruptions.patches import PatchMask
from dira_scale.train.data.views import Views, ViewSpec
from dira_scale.train.models.network import Encoder, pyramid_sizes

MASK = "mask"  # the corruption that hides blocks, and its parameter


def check_single(method: str, views: ViewSpec) -> None:
    """Raise ArgumentError unless ``method`` gets one view, which is of one size."""
    if views.count != 1:
        raise ArgumentError("views.count", views.count, f"1: {method} takes one view")


def of_known(restored: Tensor, target: Tensor, batch: Batch, views: int = 1) -> Tensor:
    """``restored`` [v·b, C, *size], of the first ``views``, but as the ``target`` in channels that an image lacks: they
    teach nothing, and no figure counts them."""
    lacking = batch.lacking(0, views)
    return restored if lacking is None else torch.where(per_sample(lacking, restored), target, restored)


def patch_maps(method: str, encoder: Encoder, sides: Sequence[int]) -> list[list[int]]:
    """Return the sizes of ``encoder``'s maps (``pyramid_sizes``) of patches of views, of these ``sides``, which
    ``method`` shows it. Raises ArgumentError if it takes none such."""
    if encoder.fixed_size:
        such = "resnet50" if len(sides) == 2 else "unet3d"
        reason = f"{encoder.name} takes images of one size, and the patches of {method} are smaller"
        raise ArgumentError("encoder", UNSHOWN, f"a convolutional network, such as {such}: {reason}")
    try:
        return pyramid_sizes(encoder, sides)
    except (RuntimeError, ValueError) as error:
        size, reason = " x ".join(map(str, sides)), str(error).splitlines()[0]
        expected = f"larger views, or fewer patches, for {method}: {encoder.name} takes none of {size} ({reason})"
        raise ArgumentError("views.size", UNSHOWN, expected) from error


def mask_blocks(views: Views, hides: bool = False) -> np.ndarray:
    """One mask that ``views.corruptions.mask`` may draw: bool [*blocks], true where hidden.

    Raises ArgumentError if there is no such mask, or it is not where the target has it, or it leaves pixels as they are
    and no method ``hides`` these patches.
    """
    names, key = [*views.corruptions], f"views.corruptions.{MASK}"
    usual = f"as configs/views/{'mae' if views.dimensions == 2 else 'mae3d'}.yaml has"
    if MASK not in names:
        raise ArgumentError(key, UNSHOWN, f"a mask, {usual}: these views hide nothing")
    if names[-1] != MASK:
        expected = f"{MASK} last: {names[-1]} after it would change what is hidden"
        raise ArgumentError("views.corruptions", UNSHOWN, expected)
    if views.target_flip != "with_input":
        expected = "with_input: targets must be where the view has its mask"
        raise ArgumentError("views.target_flip", views.target_flip, expected)
    mask, size = views.corruptions[MASK], views.sides
    if isinstance(mask, PatchMask) and not hides:
        expected = f"a BlockMask, {usual}: {type(mask).__name__} hides nothing but tokens of DINOv2's student"
        raise ArgumentError(key, UNSHOWN, expected)
    return mask.draw(np.zeros((1, mask.numbers(size)), np.float32), size)[MASK][0]


def patch_grid(encoder: Encoder, size: Sequence[int], blocks: Sequence[int], masking: str) -> tuple[int, ...]:
    """Patches of ``encoder`` on each axis of a view of ``size``, of which each of ``blocks`` holds whole ones.

    Raises ArgumentError if the encoder cannot take some patches alone, which ``masking`` asks for, or blocks cut them.
    """
    if (side := encoder.visible_patch) is None:
        other = ", or the network vit3d" if encoder.dimensions == 3 else ""
        raise ArgumentError("masking", masking, f"dense{other}: {encoder.name} cannot leave patches out")
    if any(n % (count * side) for n, count in zip(size, blocks, strict=True)):
        expected = f"a multiple of {side}, the patch of {encoder.name}"
        raise ArgumentError(f"views.corruptions.{MASK}.block", UNSHOWN, expected)
    return tuple(n // side for n in size)


def blocks_hidden(batch: Batch, view: int) -> Tensor:
    """bool [b, *blocks], true where the mask of a distorted ``view`` hides."""
    return batch.distortions[view].corruptions[MASK][MASK]


def hidden_voxels(batch: Batch, view: int, size: Sequence[int]) -> Tensor:
    """bool [b, 1, *size], true where the mask of a distorted ``view`` hides."""
    return spread(blocks_hidden(batch, view), size)[:, None]
