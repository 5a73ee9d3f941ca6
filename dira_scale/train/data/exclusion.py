"""Patients that are not trained on, by files of their keys or by splits of other datasets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import DatasetError, nearest
from dira_scale.base.storage.store import locate
from dira_scale.base.storage.streams import fetch
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.mapped import chunks

LARGEST = 2**28  # bytes of a list: 10 million patients
FORM = "patients.txt, a file with the key of a patient on each line, or {DATASET: [val, test]}"


def excluded_patients(exclude: Any, datasets: Sequence[ShardedDataset]) -> pa.LargeStringArray | None:
    """Return the keys of the patients that ``exclude`` names, to be left out of ``datasets``.

    Args:
        exclude: a file, a list of files, or {dataset: split or splits}; None: nobody.

    Raises ArgumentError, naming the file or dataset, if it cannot be read or has none of the patients of ``datasets``;
    DatasetError if its patients' keys cannot be theirs.
    """
    if exclude is None:
        return None
    if isinstance(exclude, dict):
        splits = {path: [names] if isinstance(names, str) else names for path, names in exclude.items()}
        if not all(isinstance(names, list) and names for names in splits.values()):
            raise ArgumentError("exclude", exclude, f"the names of splits, as in {FORM}")
        return pa.concat_arrays([_of_splits(path, names, datasets) for path, names in splits.items()])
    files = [exclude] if isinstance(exclude, str) else exclude
    if not isinstance(files, list) or not all(isinstance(path, str) for path in files):
        raise ArgumentError("exclude", exclude, FORM)
    return pa.concat_arrays([_of_file(path, datasets) for path in files])


def _of_splits(path: str, splits: Sequence[str], datasets: Sequence[ShardedDataset]) -> pa.LargeStringArray:
    other = ShardedDataset.open(path, check_shards=False)
    for dataset in datasets:
        if dataset.hash != other.hash and (why := dataset.info.incomparable(other.info)):
            both = f"{dataset.root} and {other.root}: {why}, so no patient of both is recognised"
            raise DatasetError(both, lacks="patients of both")
    for split in splits:
        if split not in other.splits:
            have = f"{', '.join(other.splits)}{nearest(split, other.splits)}"
            raise ArgumentError("exclude", {path: [*splits]}, f"splits of {other.root}, which has {have}")
    present = np.zeros(len(other.patients.names), bool)
    for rows in map(other.rows, splits):
        for part in chunks(len(rows)):
            present[other.patients.codes[rows[part]]] = True
    return other.patients.names.array().filter(pa.array(present))


def _of_file(path: str, datasets: Sequence[ShardedDataset]) -> pa.LargeStringArray:
    location = locate(path, "exclude")
    if location.is_dir():
        raise ArgumentError("exclude", path, f"{FORM}: this is a folder; if it is a dataset name its splits")
    try:
        lines = map(str.strip, fetch(location, LARGEST).decode().splitlines())
        keys = pa.array(filter(None, lines), pa.large_string()).unique()
    except OSError as error:
        raise ArgumentError("exclude", path, f"a file that can be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ArgumentError("exclude", path, f"{FORM}: this is not text") from error
    if not any(dataset.patients_in(keys).any() for dataset in datasets):
        roots = ", ".join(str(dataset.root) for dataset in datasets)
        expected = "patients' keys, as in the manifest's column `patient`, one a line"
        raise ArgumentError("exclude", path, f"{expected}: none of its {len(keys)} lines is a patient of {roots}")
    return keys
