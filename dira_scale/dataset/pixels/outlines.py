"""Masks and boxes over an image."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {  # of a mask's values in turn
    "orange": (255, 176, 0), "blue": (77, 195, 255), "pink": (255, 95, 138), "green": (125, 220, 111),
    "violet": (190, 150, 255), "yellow": (240, 240, 90),
}  # fmt: skip
BINARY = 255  # the value of a mask that has only one
BOX = (255, 255, 255)
LINE = 2  # pixels
SIDE, GAP = 256, 4  # pixels of two pictures side by side


def fitted(plane: np.ndarray, side: int, resample: Image.Resampling) -> np.ndarray:
    """uint8 [side, side]: ``plane`` uint8 [H, W] on black, its longer side fitted into the square; of [H, W, 3] with
    its colours."""
    picture = Image.fromarray(plane)
    fit = side / max(picture.size)
    picture = picture.resize(tuple(max(1, round(length * fit)) for length in picture.size), resample)
    canvas = np.zeros((side, side, *plane.shape[2:]), np.uint8)
    top, left = (side - picture.height) // 2, (side - picture.width) // 2
    canvas[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return canvas


def outlined(plane: np.ndarray, mask: np.ndarray | None, boxes: Sequence[Sequence[float]], side: int) -> np.ndarray:
    """uint8 [side, side, 3]: an image with the outlines of what its mask has, and its boxes.

    Args:
        plane: uint8 [H, W], or [H, W, 3].
        mask: uint8 [H, W], 0 is background; None: none.
        boxes: y, x, height and width of each, in pixels of ``plane``.
    """
    canvas = fitted(plane, side, Image.Resampling.BILINEAR)
    canvas = np.repeat(canvas[..., None], 3, 2) if canvas.ndim == 2 else canvas
    if mask is not None:
        values = fitted(mask, side, Image.Resampling.NEAREST)
        for value in np.unique(values[values > 0]).tolist():
            region = inner = values == value
            for _ in range(LINE):  # leave away the outermost pixels
                around = np.pad(inner, 1)
                inner = inner & around[2:, 1:-1] & around[:-2, 1:-1] & around[1:-1, 2:] & around[1:-1, :-2]
            colour = 0 if value == BINARY else (value - 1) % len(COLOURS)
            canvas[region & ~inner] = [*COLOURS.values()][colour]
    picture, fit = Image.fromarray(canvas), side / max(plane.shape[:2])
    top, left = ((side - max(1, round(length * fit))) // 2 for length in plane.shape[:2])
    pen = ImageDraw.Draw(picture)
    for y, x, height, width in boxes:
        corner = left + x * fit, top + y * fit
        across, down = max(0, width * fit - 1), max(0, height * fit - 1)  # a pixel at least
        pen.rectangle((*corner, corner[0] + across, corner[1] + down), outline=BOX, width=LINE)
    return np.asarray(picture)


def side_by_side(image: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> bytes:
    """A JPEG of the outlines of both masks, side by side.

    Of a volume the axial slice with most of the true mask, else with most of the predicted one.

    Args:
        image: float32 [*sides] in [0, 1]; in colour [*sides, 3].
        true, predicted: numbers of classes, int64 [*sides], 0 and below: background or unknown.
    """
    masks = [np.maximum(mask, 0).astype(np.uint8) for mask in (true, predicted)]
    if masks[0].ndim == 3:
        shown = next((mask for mask in masks if mask.any()), masks[0])
        depth = int((shown > 0).sum((1, 2)).argmax())
        image, masks = image[depth], [mask[depth] for mask in masks]
    plane = (255 * image).round().astype(np.uint8)
    left, right = (outlined(plane, mask, (), SIDE) for mask in masks)
    file = io.BytesIO()
    both = np.concatenate([left, np.full((SIDE, GAP, 3), 255, np.uint8), right], 1)
    Image.fromarray(both).save(file, "jpeg", quality=88)
    return file.getvalue()
