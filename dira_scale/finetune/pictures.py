"""Some cases of the test split: the true mask's outlines over the image, and beside them those of what is predicted."""

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import PIL.Image
from torch import Tensor

from dira_scale.evaluation.stored import Stored
from dira_scale.pixels.outlines import outlined

CASES, SIDE, GAP = 6, 256, 4  # pictures; pixels


def spread(samples: Sequence[int]) -> set[int]:
    """``CASES`` of them, evenly spaced."""
    return {samples[int(n)] for n in np.linspace(0, len(samples) - 1, CASES)} if samples else set()


def picture(stored: Stored, true: Tensor, predicted: Tensor) -> bytes:
    """A JPEG. ``true`` and ``predicted``: numbers of classes, int64 [*sides], 0 and below: background or unknown.

    Of a volume the axial slice with most of the true mask, else with most of the predicted one.
    """
    grey = replace(stored, step=None).image().mean(0).numpy()
    masks = [mask.clamp(min=0).to("cpu").numpy().astype(np.uint8) for mask in (true, predicted)]
    if grey.ndim == 3:
        shown = next((mask for mask in masks if mask.any()), masks[0])
        depth = int((shown > 0).sum((1, 2)).argmax())
        grey, masks = grey[depth], [mask[depth] for mask in masks]
    plane = (255 * grey).round().astype(np.uint8)
    left, right = (outlined(plane, mask, (), SIDE) for mask in masks)
    file = io.BytesIO()
    both = np.concatenate([left, np.full((SIDE, GAP, 3), 255, np.uint8), right], 1)
    PIL.Image.fromarray(both).save(file, "jpeg", quality=88)
    return file.getvalue()
