"""Take a part of a dataset: some of its patients, samples of some kinds, or one of k folds."""

from collections.abc import Iterator, Mapping, Sequence
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
from dira_scale.dataset.manifest.index import Codes
from dira_scale.shard.curate.derivation import Parent, empty_folder, print_summary, write
from dira_scale.train.data.stratification import in_drawn_order


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
    # In memory, of a row: a byte each of these two, and four for its patient's number.
    keep, splits = _matching(dataset, part.where), [*dict.fromkeys([*dataset.splits, "train", "val"])]
    split_of = np.empty(len(keep), np.min_scalar_type(len(splits)))
    for number, name in enumerate(dataset.splits):
        split_of[dataset.rows(name)] = number
    if part.folds:  # one becomes val, the others train
        inside = keep & np.isin(split_of, [splits.index(name) for name in part.splits])
        people, (train, val) = _of(dataset.patients, inside), map(splits.index, ("train", "val"))
        if (count := len(np.unique(people.codes))) < part.folds:
            raise UserError(f"folds={part.folds}: only {count} patients in {', '.join(part.splits)}")
        # Other splits are kept, except a train or val, whose patients would mix with the folds'.
        keep &= inside | ~np.isin(split_of, [train, val])
        split_of[inside] = np.where(in_fold(people, part.folds, part.fold, part.seed), val, train)
    for name in part.splits if part.fraction < 1 else ():  # other splits completely
        inside = keep & (split_of == splits.index(name))
        keep[inside] = in_fraction(_of(dataset.patients, inside), part.fraction, part.seed)
    recipe: dict[str, Any] = {"subset_of": dataset.hash, "recipe_hash": dataset.info.recipe_hash}
    recipe |= {"fraction": part.fraction, "seed": part.seed, "splits": list(part.splits), "where": dict(part.where)}
    recipe |= {name: dataset.info.recipe.get(name) for name in ("hash_key", "archive")}  # they make hashes comparable
    recipe |= {"folds": part.folds, "fold": part.fold} if part.folds else {}
    if dataset.info.published_lists and not part.folds:  # they still decide the splits
        recipe["lists"] = dataset.info.recipe["lists"]
    parent = Parent.of(dataset, folder)

    def kept() -> Iterator[pa.Table]:
        first = 0
        for rows in parent.batches():
            here = slice(first, first + len(rows))
            new = pa.array(splits).take(pa.array(split_of[here]))
            rows = rows.set_column(rows.schema.get_field_index("split"), "split", new)
            yield rows.filter(pa.array(keep[here]))
            first += len(rows)

    info = write(folder, dataset.info, dataset.info.name, recipe, kept(), [parent])
    print_summary(folder, info)
    return info


def _matching(dataset: ShardedDataset, where: Mapping[str, Any]) -> np.ndarray:
    """Return a mask of the rows whose split, attributes and labels match ``where``."""
    info, keep, attributes = dataset.info, np.ones(len(dataset.index.records), bool), set[str]()
    for batch in dataset.manifest.batches(["attributes"]) if where else ():
        attributes.update(pc.unique(batch["attributes"].combine_chunks().keys).to_pylist())
    names = ["split", "mask", *sorted(attributes), *info.label_names]
    for name, wanted in where.items():
        options = list(wanted) if isinstance(wanted, list | tuple) else [wanted]
        if name == "split":
            for split in (split for split in dataset.splits if split not in options):
                keep[dataset.rows(split)] = False
        elif name == "mask":
            keep &= _is_one(dataset.has_mask(slice(None)), options)
        elif name in attributes:
            first, texts = 0, pa.array([*map(str, options)])
            for batch in dataset.manifest.batches(["attributes"]):
                values = pc.map_lookup(batch["attributes"], pa.scalar(name), "last")
                keep[first : first + len(batch)] &= pc.is_in(values, value_set=texts).to_numpy()
                first += len(batch)
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
            keep &= _is_one(dataset.index.records["labels"][:, number], options)
        else:
            raise UserError(f"where.{name}: no such attribute or label{nearest(name, names)}; use {', '.join(names)}")
    return keep


def _is_one(values: np.ndarray, options: Sequence[Any]) -> np.ndarray:
    """Return a mask of the ``values`` that equal one of the ``options``, which may be of any type."""
    equal = [value for value in np.unique(values).tolist() if value in options]
    return np.isin(values, np.array(equal, values.dtype))


def _of(patients: Codes, rows: np.ndarray) -> Codes:
    return Codes(patients.codes[rows], patients.names)


def in_fraction(patients: Codes, fraction: float, seed: int) -> np.ndarray:
    """Return a mask of the samples [n] of the first drawn ``patients`` that together have ``fraction`` of them."""
    samples = np.bincount(patients.codes, minlength=len(patients.names))
    order = in_drawn_order(patients.names.array(), samples > 0, seed)
    before = np.cumsum(samples[order]) - samples[order]
    return np.isin(patients.codes, order[before < fraction * len(patients.codes)])


def in_fold(patients: Codes, folds: int, fold: int, seed: int) -> np.ndarray:
    """Return a mask of the samples whose patients are in ``fold``: every ``folds``-th one in the order drawn."""
    present = np.bincount(patients.codes, minlength=len(patients.names)) > 0
    return np.isin(patients.codes, in_drawn_order(patients.names.array(), present, seed)[fold::folds])
