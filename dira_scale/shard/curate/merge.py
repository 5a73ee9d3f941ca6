"""Join several datasets: labels matched by name, each patient in one split only."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dira_scale.base.errors import UserError, print_line
from dira_scale.dataset.manifest import DatasetInfo, ShardedDataset
from dira_scale.dataset.manifest.several import by_split, in_several
from dira_scale.shard.curate.derivation import Parent, empty_folder, print_summary, write

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
    stored = {int(dataset.column("channels").max()): dataset.root for dataset in datasets}
    if len(stored) > 1 and first.dims == 2:
        grey, colour = (root for _, root in sorted(stored.items()))
        raise UserError(f"{grey} has grey images, but {colour} images in colour: merge datasets of the same channels")
    classes = _same_classes(datasets)
    labels = list(dict.fromkeys(label for dataset in datasets for label in dataset.info.label_names))
    rows = sum(len(dataset.index.records) for dataset in datasets)
    splits = [*dict.fromkeys(split for dataset in datasets for split in dataset.splits)]

    def column(name: str, groups: Callable[[int, str], int]) -> Iterator[tuple[pa.ChunkedArray, np.ndarray]]:
        for number, dataset in enumerate(datasets):
            yield from by_split(dataset, name, [groups(number, split) for split in dataset.splits])

    if twice := [*in_several(lambda: column("key", lambda number, _: number), rows)]:
        raise UserError(
            f"{len(twice)} samples are in more than one of {', '.join(map(str, paths))}, such as {twice[0]}"
        )
    # Patients in several splits, with the most guarded one.
    several = in_several(lambda: column("patient", lambda _, split: splits.index(split)), rows)
    best = {
        patient: min((splits[number] for number in of), key=lambda split: (*GUARDED, split).index(split))
        for patient, of in several.items()
    }
    parents = [Parent.of(dataset, folder) for dataset in datasets]
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
    kept = (_guarded(_relabelled(t, of.dataset.info, labels), best) for of in parents for t in of.batches())
    info = write(folder, like, name, recipe, kept, parents)
    print_summary(folder, info)
    if left_out := rows - sum(info.counts.values()):
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
    """The rows with all ``labels``, NaN where their dataset has none of the name."""
    count, index = len(info.label_names), table.schema.get_field_index("labels")
    numbers = np.array([info.label_names.index(label) if label in info.label_names else -1 for label in labels], int)
    values = pa.concat_arrays([table["labels"].combine_chunks().flatten(), pa.array([math.nan], pa.float32())])
    places = np.where(numbers < 0, len(values) - 1, np.arange(len(table))[:, None] * count + numbers)
    offsets = np.arange(len(table) + 1, dtype=np.int32) * len(labels)
    lists = pa.ListArray.from_arrays(offsets, values.take(pa.array(places.ravel())))
    return table.set_column(index, "labels", lists)


def _guarded(table: pa.Table, best: Mapping[str, str]) -> pa.Table:
    """The rows without those of patients who are in a more guarded split elsewhere, their ``best``."""
    rows = zip(table["patient"].to_pylist(), table["split"].to_pylist(), strict=True) if best else ()
    return table.filter(pa.array([best.get(patient, split) == split for patient, split in rows])) if best else table


def _joined(values: Any) -> str:
    return ", ".join(dict.fromkeys(values))
