"""Join several datasets: labels matched by name, each patient in one split only."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from dira_scale.base.errors import UserError, print_line
from dira_scale.dataset.manifest import DatasetInfo, ShardedDataset
from dira_scale.shard.curate.derivation import empty_folder, print_summary, with_relative_shards, write

GUARDED = ("test", "val", "train")  # a test patient of one dataset is never trained on in another


def merge(paths: Sequence[str | Path], out: str | Path, name: str) -> DatasetInfo:
    """Join the datasets at ``paths`` into ``out``. A label that a dataset lacks is unknown there.

    A patient in several splits stays in the most guarded one (test, val, train, others); samples in the other splits
    are dropped and counted.

    Raises UserError if they are incompatible.
    """
    if len(paths) < 2:
        raise UserError(f"paths={list(map(str, paths))}: give at least two datasets: paths=[A,B]")
    folder, datasets = empty_folder(out), [ShardedDataset.open(path) for path in paths]
    first = datasets[0].info
    for dataset in datasets[1:]:
        if dataset.info.dims != first.dims:
            raise UserError(f"{datasets[0].root} is {first.dims}D, but {dataset.root} is {dataset.info.dims}D")
        if dataset.info.channels != first.channels:
            raise UserError(
                f"{datasets[0].root} has {', '.join(first.channels) or 'one channel'}, but {dataset.root} "
                f"{', '.join(dataset.info.channels) or 'one channel'}: merge datasets of the same channels"
            )
    stored = {max(dataset.column("channels")): dataset.root for dataset in datasets}
    if len(stored) > 1 and first.dims == 2:
        grey, colour = (root for _, root in sorted(stored.items()))
        raise UserError(f"{grey} has grey images, but {colour} images in colour: merge datasets of the same channels")
    classes = _same_classes(datasets)
    labels = list(dict.fromkeys(label for dataset in datasets for label in dataset.info.label_names))
    tables = [_relabelled(with_relative_shards(d, d.table, folder), d.info, labels) for d in datasets]
    joined = pa.concat_tables(tables)
    if twice := [key for key, count in Counter(joined["key"].to_pylist()).items() if count > 1]:
        raise UserError(
            f"{len(twice)} samples are in more than one of {', '.join(map(str, paths))}, such as {twice[0]}"
        )
    table, left_out = _guarded(joined)
    recipe: dict[str, Any] = {"merge_of": [dataset.hash for dataset in datasets]}
    recipe["names"] = [dataset.info.name for dataset in datasets]
    for key in ("hash_key", "archive"):  # kept if equal in all: they make hashes comparable
        values = {dataset.info.recipe.get(key) for dataset in datasets}
        recipe |= {key: values.pop()} if len(values) == 1 else {}
    like = replace(
        first,
        label_names=labels,
        classes=classes,
        modality=_joined(dataset.info.modality for dataset in datasets),
        codec=_joined(dataset.info.codec for dataset in datasets),
        licence=_joined(dataset.info.licence for dataset in datasets),
    )
    info = write(folder, like, name, recipe, table, datasets)
    print_summary(folder, info)
    if left_out:
        print_line(f"left out: {left_out} samples of patients in a more guarded split of another dataset")
    return info


def _same_classes(datasets: Sequence[ShardedDataset]) -> dict[str, list[str]]:
    """The class names of all labels that have any. Raises UserError if they differ: numbers would change meaning."""
    first: dict[str, ShardedDataset] = {}
    for dataset in datasets:
        for label in dataset.info.label_names:
            other = first.setdefault(label, dataset)
            classes, earlier = (d.info.classes.get(label) for d in (dataset, other))
            if classes != earlier:
                raise UserError(
                    f"label {label} has {_told(earlier)} in {other.root}, but {_told(classes)} in {dataset.root}: "
                    "shard one of them again with recipe.class_columns="
                    f"'{{{label}: [{', '.join(classes or earlier or [])}]}}'"
                )
    return {label: d.info.classes[label] for label, d in first.items() if label in d.info.classes}


def _told(classes: list[str] | None) -> str:
    return f"the classes {', '.join(classes)}" if classes else "no classes"


def _relabelled(table: pa.Table, info: DatasetInfo, labels: list[str]) -> pa.Table:
    numbers = [info.label_names.index(label) if label in info.label_names else None for label in labels]
    rows = [[math.nan if n is None else row[n] for n in numbers] for row in table["labels"].to_pylist()]
    index = table.schema.get_field_index("labels")
    return table.set_column(index, "labels", pa.array(rows, info.schema.field("labels").type)).select(info.schema.names)


def _guarded(table: pa.Table) -> tuple[pa.Table, int]:
    """Drop samples of patients who are also in a more guarded split. Returns the rest, and the number dropped."""
    rank = {split: number for number, split in enumerate(GUARDED)}
    best: dict[str, str] = {}
    people, splits = table["patient"].to_pylist(), table["split"].to_pylist()
    for patient, split in zip(people, splits, strict=True):
        if rank.get(split, len(rank)) < rank.get(best.setdefault(patient, split), len(rank)):
            best[patient] = split
    keep = pa.array([best[patient] == split for patient, split in zip(people, splits, strict=True)])
    kept = table.filter(keep)
    return kept, table.num_rows - kept.num_rows


def _joined(values: Any) -> str:
    return ", ".join(dict.fromkeys(values))
