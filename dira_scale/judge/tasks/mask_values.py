"""Checks of some masks of a dataset, before training, that they can be learned."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dira_scale.base.config.keys import typed
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.dataset import LOOKED_AT
from dira_scale.judge.tasks.classes import Classes, regions_of, values_of
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.selection import Selection

if TYPE_CHECKING:
    from dira_scale.train.inputs import Inputs


def check_masks(data: "Inputs", classes: Classes | None) -> None:
    """Look at some masks of each dataset: of those that are trained on, and of the validation and test splits.

    Raises UserError, naming datasets and split: several values beside 0 although no classes are named, values that are
    no class's, a class that none has, or no mask among what is trained on.
    """
    _check_split(data.datasets, data.data.split, classes, data.order.selection, data.chosen_by)
    held_out = {data.data.val_split, getattr(data.data, "test_split", None)} - {None}
    for split in sorted(map(str, held_out)):
        if all(split in dataset.splits for dataset in data.datasets):  # others are refused with their key
            _check_split(data.datasets, split, classes, trained=False)


def check_evaluated(dataset: ShardedDataset, split: str, classes: Classes | None, remedy: str) -> None:
    """Raise UserError, with ``remedy``, for a split without masks, or whose masks are not of these classes."""
    Samples([dataset], split).require_masks()
    _check_split([dataset], split, classes, trained=False, remedy=remedy)


def _check_split(
    datasets: Sequence[ShardedDataset],
    split: str,
    classes: Classes | None,
    selection: Selection | None = None,
    keys: str = "",
    trained: bool = True,
    remedy: str | None = None,
) -> None:
    where = f"split '{split}'" + f" at {keys}" * bool(keys)
    values, counts, first = set[int](), list[int](), 0
    for dataset in datasets:
        rows = dataset.rows(split)
        chosen = rows[np.isin(first + np.arange(len(rows)), selection.samples)] if selection else rows
        first += len(rows)
        here, count = dataset.mask_values(chosen)
        looked = f"masks of {dataset.root}, {where} ({count} were looked at)"
        if classes is None and len(here) > 1:
            listed = ", ".join(map(str, sorted(here)[:8])) + ", …" * (len(here) > 8)
            advice = remedy or "name the classes, task.classes={NAME: VALUE, …}"
            raise UserError(
                f"task.classes=null: {looked}, have the values {listed} beside 0, and a binary mask has one: {advice}"
            )
        if classes is not None and (other := sorted(here - {*values_of(classes)})):
            advice = remedy or "name its class"
            raise UserError(f"task.classes={typed(classes)}: {looked}, also have the value {other[0]}: {advice}")
        values |= here
        counts.append(count)
    roots = ", ".join(str(dataset.root) for dataset in datasets)
    larger = "use a larger data.fraction" if "data.fraction" in keys else ""
    if not sum(counts):
        if selection is None:
            return  # loaders refuse a split without masks
        raise UserError(f"{roots}, {where}: none of {len(selection.samples)} images has a mask: "
                        f"{larger or 'keep some that have one'}")  # fmt: skip
    if max(counts) >= LOOKED_AT:
        return  # not all were looked at
    looked = f"masks of {roots}, {where} ({sum(counts)} were looked at)"
    if classes is None and not values and trained:  # where nobody has it, an answer is judged, too
        raise UserError(f"{looked}, are all empty: {larger or 'use another split, or shard again with masks'}")
    regions = regions_of(classes or {}) or [[value] for value in (classes or {}).values()]
    if absent := [name for name, region in zip(classes or {}, regions, strict=True) if values.isdisjoint(region)]:
        advice = remedy or (f"{larger}, or leave it out" if larger else "leave it out, or use another split")
        raise UserError(f"task.classes: {looked}, have no pixel of '{absent[0]}': {advice}")
