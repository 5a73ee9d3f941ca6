"""An image with the box that was drawn by hand, and beside it the map over the image with the predicted boxes."""

import re
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dira_scale.localize.results import Row

if TYPE_CHECKING:
    from dira_scale.localize.look import LocatedLabel

FOLDER = "pictures"
HEIGHT, GAP, LINE, TEXT = 384, 6, 2, 13  # pixels
TRUE, PREDICTED = (90, 220, 90), {"yellow": (255, 210, 60), "blue": (80, 170, 255)}  # of the intensities in turn
OPAQUE = 0.45  # the map, where it is 255


def file_name(label: str, key: str) -> str:
    return f"{re.sub(r'[^A-Za-z0-9]+', '_', label)}-{key}.png"


def draw(view: Tensor, seen: "LocatedLabel", rows: Sequence[Row]) -> bytes:
    """A PNG of ``view`` [C, *size] in [0, 1]; of a volume the slice in the middle of the first box.

    ``rows``: of the same image and label.
    """
    n = seen.map.ndim
    grey, map = view.mean(0).numpy(), seen.map
    true = [_in_view(np.array(row.box), seen) for row in rows]
    predicted = {intensity: [_in_view(box, seen) for box in boxes] for intensity, boxes in seen.predicted.items()}
    if n == 3:
        middle = int(np.clip(true[0][0] + true[0][3] / 2, 0, len(grey) - 1))
        grey, map = grey[middle], map[middle]
        true = [box for box in true if _crosses(box, middle)]
        predicted = {key: [box for box in boxes if _crosses(box, middle)] for key, boxes in predicted.items()}
    height, width = seen.crop[n:][-2:]  # the stored image's proportions: its view may be square
    size = round(HEIGHT * width / height), HEIGHT
    scale = np.array([HEIGHT / grey.shape[0], size[0] / grey.shape[1]])
    left = _resized(grey, size)
    right = _resized(_over(grey, map), size)
    _outline(left, true, scale, TRUE)
    _outline(right, true, scale, TRUE)
    colours = [*PREDICTED.values()]
    for number, boxes in enumerate(predicted.values()):
        _outline(right, boxes, scale, colours[number % len(colours)])
    sheet = Image.new("RGB", (2 * size[0] + GAP, HEIGHT + 3 * TEXT), "white")
    sheet.paste(left, (0, 3 * TEXT))
    sheet.paste(right, (size[0] + GAP, 3 * TEXT))
    names = [*PREDICTED] * len(predicted)
    levels = ", ".join(f"{name} above {intensity:g}" for name, intensity in zip(names, predicted, strict=False))
    text = f"{rows[0].label}: probability {rows[0].probability:.2f}, IoU {max(row.iou for row in rows):.2f}"
    key = f"green: box; regions {levels}" if rows[0].regions else "green: box; no region"
    ImageDraw.Draw(sheet).multiline_text((4, 3), f"{text}\n{key}", "black", ImageFont.load_default(TEXT))
    encoded = BytesIO()
    sheet.save(encoded, "PNG")
    return encoded.getvalue()


def _in_view(box: np.ndarray, seen: "LocatedLabel") -> np.ndarray:
    """From the stored image's pixels to the view's: the inverse of ``regions.in_stored``."""
    n = seen.map.ndim
    scale = np.array(seen.map.shape) / seen.crop[n:]
    return np.concatenate(((box[:n] - seen.crop[:n]) * scale, box[n:] * scale))


def _crosses(box: np.ndarray, depth: int) -> bool:
    return bool(box[0] < depth + 1 and box[0] + box[3] > depth)


def _over(grey: np.ndarray, map: np.ndarray) -> np.ndarray:
    """The image coloured by the map, [H, W, 3] in [0, 1]."""
    from matplotlib import colormaps  # lazy: takes a third of a second

    share = (OPAQUE * map / 255)[..., None]
    return (1 - share) * grey[..., None] + share * colormaps["turbo"](map / 255)[..., :3]


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    values = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(values).convert("RGB").resize(size, Image.Resampling.BILINEAR)


def _outline(picture: Image.Image, boxes: Sequence[np.ndarray], scale: np.ndarray, colour: tuple[int, ...]) -> None:
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        y, x, h, w = np.concatenate((box[: len(box) // 2][-2:] * scale, box[len(box) // 2 :][-2:] * scale)).tolist()
        pen.rectangle((x, y, x + w - 1, y + h - 1), outline=colour, width=LINE)
