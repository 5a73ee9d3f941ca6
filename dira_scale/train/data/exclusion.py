"""Patients that are not trained on, by files of their keys or by splits of other datasets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import DatasetError, nearest
from dira_scale.base.storage.store import locate
from dira_scale.base.storage.streams import fetch

if TYPE_CHECKING:  # an order is made where no shards are, hence no pyarrow
    from dira_scale.dataset.manifest import ShardedDataset

LARGEST = 2**28  # bytes of a list: 10 million patients
FORM = "patients.txt, a file with the key of a patient on each line, or {DATASET: [val, test]}"


def excluded_patients(exclude: Any, datasets: Sequence["ShardedDataset"]) -> set[str]:
    """Return the keys of the patients that ``exclude`` names, to be left out of ``datasets``.

    Args:
        exclude: a file, a list of files, or {dataset: split or splits}; None: nobody.

    Raises ArgumentError, naming the file or dataset, if it cannot be read or has none of the patients of ``datasets``;
    DatasetError if its patients' keys cannot be theirs.
    """
    if exclude is None:
        return set()
    if isinstance(exclude, dict):
        splits = {path: [names] if isinstance(names, str) else names for path, names in exclude.items()}
        if not all(isinstance(names, list) and names for names in splits.values()):
            raise ArgumentError("exclude", exclude, f"the names of splits, as in {FORM}")
        return set().union(*(_of_splits(path, names, datasets) for path, names in splits.items()))
    files = [exclude] if isinstance(exclude, str) else exclude
    if not isinstance(files, list) or not all(isinstance(path, str) for path in files):
        raise ArgumentError("exclude", exclude, FORM)
    return set().union(*(_of_file(path, datasets) for path in files))


def _of_splits(path: str, splits: Sequence[str], datasets: Sequence["ShardedDataset"]) -> set[str]:
    from dira_scale.dataset.manifest import ShardedDataset

    other = ShardedDataset.open(path, check_shards=False)
    for dataset in datasets:
        if dataset.hash != other.hash and (why := dataset.info.incomparable(other.info)):
            both = f"{dataset.root} and {other.root}: {why}, so no patient of both is recognised"
            raise DatasetError(both, lacks="patients of both")
    for split in splits:
        if split not in other.splits:
            have = f"{', '.join(other.splits)}{nearest(split, other.splits)}"
            raise ArgumentError("exclude", {path: [*splits]}, f"splits of {other.root}, which has {have}")
    return {patient for split in splits for patient in other.column("patient")[other.rows(split)].tolist()}


def _of_file(path: str, datasets: Sequence["ShardedDataset"]) -> set[str]:
    location = locate(path, "exclude")
    if location.is_dir():
        raise ArgumentError("exclude", path, f"{FORM}: this is a folder; if it is a dataset name its splits")
    try:
        keys = {line.strip() for line in fetch(location, LARGEST).decode().splitlines()} - {""}
    except OSError as error:
        raise ArgumentError("exclude", path, f"a file that can be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ArgumentError("exclude", path, f"{FORM}: this is not text") from error
    patients = set().union(*(set(dataset.column("patient").tolist()) for dataset in datasets))
    if not keys & patients:
        roots = ", ".join(str(dataset.root) for dataset in datasets)
        raise ArgumentError("exclude", path, f"patients' keys, as in the manifest's column `patient`, one a line: none "
                            f"of its {len(keys)} lines is a patient of {roots}")  # fmt: skip
    return keys
