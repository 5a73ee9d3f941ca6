"""Whether the masks of a dataset can be learned: asked of some of them before training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.samples import Samples
from dira_scale.errors import UserError

if TYPE_CHECKING:
    from dira_scale.training.inputs import Inputs

LOOKED_AT = 256  # masks of each dataset, spread over the split that is trained on


def check_masks(data: "Inputs", classes: Mapping[str, int] | None) -> None:
    """Look at some masks of each dataset.

    Raises UserError, naming the dataset: several values beside 0 although no classes are named, values that are no
    class's, or a class that none has.
    """
    if classes is not None and (
        len({*classes.values()}) < len(classes) or not all(0 < v < 256 for v in classes.values())
    ):
        raise UserError(
            f"task.classes={dict(classes)}: give each class a value of its own from 1 to 255; 0 is background"
        )
    for dataset in data.datasets:
        values, count = _values(dataset, data.data.split)
        looked = f"masks of {dataset.root}, split '{data.data.split}' ({count} were looked at)"
        if classes is None and len(values) > 1:
            listed = ", ".join(map(str, sorted(values)[:8])) + ", …" * (len(values) > 8)
            raise UserError(
                f"task.classes=null: {looked}, have the values {listed} beside 0, and a binary mask has one: name the "
                "classes, task.classes={NAME: VALUE, …}"
            )
        if classes is not None and (other := sorted(values - {*classes.values()})):
            raise UserError(f"task.classes={dict(classes)}: {looked}, also have the value {other[0]}: name its class")
        absent = [name for name, value in (classes or {"mask": 1}).items() if value not in values]
        if absent and not (classes is None and values) and count < LOOKED_AT:  # all were looked at
            raise UserError(
                f"task.classes: {looked}, have no pixel of '{absent[0]}': leave it out, or use another split"
            )


def _values(dataset: ShardedDataset, split: str) -> tuple[set[int], int]:
    """The values above 0 of some masks of a split, and of how many."""
    masked = np.flatnonzero(dataset.has_mask(dataset.rows(split)))
    chosen = masked[np.unique(np.linspace(0, len(masked) - 1, LOOKED_AT).astype(int))] if len(masked) else masked
    samples = Samples([dataset], split)
    values = [np.unique(mask) for sample in chosen.tolist() if (mask := samples.mask(sample)) is not None]
    return {int(value) for part in values for value in part} - {0}, len(values)
