"""Classes that mirrored views make alike."""

import re
from collections.abc import Sequence

from dira_scale.data.views import ViewSpec

AXES = {  # of volumes as they are stored, counted from the last; images are mirrored along the last alone
    "left": -1, "right": -1,
    "anterior": -2, "posterior": -2, "front": -2, "back": -2, "ventral": -2, "dorsal": -2,
    "superior": -3, "inferior": -3, "upper": -3, "lower": -3,
}  # fmt: skip


def told_apart_by_side(outputs: Sequence[str], views: ViewSpec) -> list[str]:
    """A line if classes are called after sides of an axis that ``views.flip`` mirrors: masks and labels do not change
    their names with it, and the network cannot tell these classes apart."""
    flips, found = [*views.flips], list[str]()
    for output in outputs:
        axes = {AXES[word] for word in re.findall("[a-z]+", output.lower()) if word in AXES}
        for axis in (axis for axis in axes if -axis <= len(flips) and views.flips[axis]):
            flips[axis] = 0.0
            found.append(output)
    if not found:
        return []
    shown = "0" if not any(flips) else f"[{','.join(f'{p:g}' for p in flips)}]"
    return [
        f"mirrored: views.flip makes alike what {' and '.join(dict.fromkeys(found))} tell apart: use views.flip={shown}"
    ]
