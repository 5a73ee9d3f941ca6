"""Take a part of a dataset: some of its patients, samples of some kinds, or one of k folds."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dira_scale.archive.sources.label_columns import key_of
from dira_scale.base.errors import UserError, nearest
from dira_scale.base.storage.text import brief
from dira_scale.dataset.manifest import DatasetInfo, ShardedDataset
from dira_scale.shard.curate.derivation import empty_folder, print_summary, with_relative_shards, write
from dira_scale.train.data.selection import fold_of, fraction_of_samples


@dataclass(frozen=True)
class SubsetPart:
    """The part of a dataset to keep. The keys are explained in ``configs/shard_subset.yaml``."""

    fraction: float
    seed: int
    splits: tuple[str, ...]
    where: Mapping[str, Any]
    folds: int | None
    fold: int


def subset(path: str | Path, out: str | Path, part: SubsetPart) -> DatasetInfo:
    """Write the part of the dataset at ``path`` to ``out``. Raises UserError if a key does not fit the dataset."""
    folder, dataset = empty_folder(out), ShardedDataset.open(path)
    for split in part.splits:
        dataset.rows(split)  # raises if there is none
    table = _filtered(dataset.table, dataset.info, part.where)
    if part.folds:
        table = _fold(table, part)
    if part.fraction < 1:
        keep = ~np.isin(table["split"].to_numpy(zero_copy_only=False), part.splits)  # other splits completely
        people = table["patient"].to_numpy(zero_copy_only=False)
        for split in part.splits:
            rows = pc.equal(table["split"], split).to_numpy()
            keep[rows] = fraction_of_samples(people[rows], part.fraction, part.seed)
        table = table.filter(pa.array(keep))
    recipe: dict[str, Any] = {"subset_of": dataset.hash, "recipe_hash": dataset.info.recipe_hash}
    recipe |= {"fraction": part.fraction, "seed": part.seed, "splits": list(part.splits), "where": dict(part.where)}
    recipe |= {name: dataset.info.recipe.get(name) for name in ("hash_key", "archive")}  # they make hashes comparable
    recipe |= {"folds": part.folds, "fold": part.fold} if part.folds else {}
    if dataset.info.published_lists and not part.folds:  # they still decide the splits
        recipe["lists"] = dataset.info.recipe["lists"]
    table = with_relative_shards(dataset, table, folder)
    info = write(folder, dataset.info, dataset.info.name, recipe, table, [dataset])
    print_summary(folder, info)
    return info


def _filtered(table: pa.Table, info: DatasetInfo, where: Mapping[str, Any]) -> pa.Table:
    """Rows whose split, attributes and labels match ``where``."""
    attributes = {name for row in table["attributes"].to_pylist() for name, _ in row or ()}
    names = ["split", "mask", *sorted(attributes), *info.label_names]
    for name, wanted in where.items():
        options = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if name == "split":
            values = table["split"].to_pylist()
        elif name == "mask":
            values = [size is not None for size in table["mask_size"].to_pylist()]
        elif name in attributes:
            values = [dict(row or ()).get(name) for row in table["attributes"].to_pylist()]
            options = [*map(str, options)]
        elif name in info.label_names:
            number = info.label_names.index(name)
            if classes := info.classes.get(name):  # by name as tables have it: in any case, ``2.0`` for ``2``
                numbers = {key_of(label): number for number, label in enumerate(classes)}
                if unknown := [str(option) for option in options if key_of(str(option)) not in numbers]:
                    hint = nearest(unknown[0], classes)
                    raise UserError(
                        f"where.{name}: " + brief(f"no class '{unknown[0]}'{hint}; use {', '.join(classes)}")
                    )
                options = [numbers[key_of(str(option))] for option in options]
            values = [row[number] for row in table["labels"].to_pylist()]
        else:
            raise UserError(f"where.{name}: no such attribute or label{nearest(name, names)}; use {', '.join(names)}")
        table = table.filter(pa.array([value in options for value in values]))
    return table


def _fold(table: pa.Table, part: SubsetPart) -> pa.Table:
    """Deal the patients of ``splits`` into folds: one becomes val, the others train. Other splits are kept, except a
    train or val that is not in ``splits``, whose patients would mix with the folds'."""
    assert part.folds is not None
    splits = table["split"].to_numpy(zero_copy_only=False)
    inside = np.isin(splits, part.splits)
    people = table["patient"].to_numpy(zero_copy_only=False)[inside]
    if (count := len(set(people.tolist()))) < part.folds:
        raise UserError(f"folds={part.folds}: only {count} patients in {', '.join(part.splits)}")
    new = splits.copy()
    new[inside] = np.where(fold_of(people, part.folds, part.fold, part.seed), "val", "train")
    table = table.set_column(table.schema.get_field_index("split"), "split", pa.array(new, pa.string()))
    return table.filter(pa.array(inside | ~np.isin(splits, ["train", "val"])))
