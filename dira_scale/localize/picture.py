"""A picture of one label in one image: the boxes of the dataset, the map, and the boxes around its regions."""

from collections.abc import Sequence
from io import BytesIO
from itertools import cycle

import numpy as np
from etils.epy import lazy_imports
from torch import Tensor

from dira_scale.localize.look import LocatedLabel
from dira_scale.localize.results import LocatedBox

with lazy_imports():
    from matplotlib import figure as mpl_figure
    from matplotlib import patches

INCHES, DPI = 4, 96  # of the picture's height
Colour = tuple[int, int, int]
TRUE, PREDICTED = (90, 220, 90), {"yellow": (255, 210, 60), "blue": (80, 170, 255)}  # of the intensities in turn
OPAQUE = 0.45  # the map, where it is 255


def draw(view: Tensor, seen: LocatedLabel, rows: Sequence[LocatedBox]) -> bytes:
    """A PNG of ``view`` [C, *size] in [0, 1], in pixels of the stored image; of a volume the slice in the middle of the
    first box.

    ``rows``: of the same image and label.
    """
    map, (start, extent) = seen.map, np.split(seen.crop, 2)
    image = (view.movedim(0, -1) if map.ndim == 2 and len(view) == 3 else view.mean(0)).numpy()
    true: list[tuple[Colour, Sequence[float]]] = [(TRUE, row.box) for row in rows]
    predicted = zip(cycle(PREDICTED.values()), seen.predicted.values(), strict=False)
    marked = true + [(colour, box) for colour, boxes in predicted for box in boxes]
    if map.ndim == 3:
        thickness = extent[0] / len(map)
        depth = int(((rows[0].box[0] + rows[0].box[3] / 2 - start[0]) / thickness).clip(0, len(map) - 1))
        image, map, front = image[depth], map[depth], start[0] + depth * thickness
        true, marked = (
            [(colour, box) for colour, box in of if box[0] < front + thickness and box[0] + box[3] > front]
            for of in (true, marked)
        )
    (top, left), (height, width) = start[-2:], extent[-2:]
    place = left, left + width, top + height, top
    figure = mpl_figure.Figure((2 * INCHES * width / height, INCHES + 0.5), DPI, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, boxes in zip(axes, (true, marked), strict=True):
        axis.set_axis_off()
        axis.imshow(image, "gray", vmin=0, vmax=1, extent=place, interpolation="bilinear")
        for colour, box in boxes:
            (y, x), (h, w) = (side[-2:] for side in np.split(np.array(box), 2))
            line = {"edgecolor": np.divide(colour, 255), "linewidth": 1.5, "antialiased": False, "zorder": 3}
            axis.add_patch(patches.Rectangle((x, y), w, h, fill=False, **line))
    axes[1].imshow(map, "turbo", vmin=0, vmax=255, alpha=OPAQUE * map / 255, extent=place, interpolation="bilinear")
    levels = ", ".join(f"{name} above {level:g}" for name, level in zip(cycle(PREDICTED), seen.predicted, strict=False))
    figure.suptitle(
        f"{rows[0].label}: probability {rows[0].probability:.2f}, IoU {max(row.iou for row in rows):.2f}\n"
        f"green: box; {f'regions {levels}' if rows[0].regions else 'no region'}", fontsize=9
    )  # fmt: skip
    encoded = BytesIO()
    figure.savefig(encoded, format="png")
    return encoded.getvalue()
