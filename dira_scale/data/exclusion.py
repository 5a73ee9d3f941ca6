"""``data.exclude``: patients that are not trained on, by files of their keys or by splits of other datasets."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dira_scale.errors import UserError, nearest
from dira_scale.storage.store import locate
from dira_scale.storage.streams import fetch

if TYPE_CHECKING:  # an order is made where no shards are, hence no pyarrow
    from dira_scale.data.manifest import ShardedDataset

KEY = "data.exclude"
LARGEST = 2**28  # bytes of a list: 10 million patients
FORM = f"{KEY}=patients.txt, a file with the key of a patient on each line, or {KEY}='{{DATASET: [val, test]}}'"


def excluded_patients(exclude: Any, datasets: Sequence["ShardedDataset"]) -> set[str]:
    """The keys of the patients that ``data.exclude`` names, to be left out of ``datasets``.

    Args:
        exclude: a file, a list of files, or {dataset: split or splits}; None: nobody.

    Raises UserError, naming the file or dataset, if it cannot be read, if its patients' keys cannot be those of
    ``datasets``, or if a file has none of theirs.
    """
    if exclude is None:
        return set()
    if isinstance(exclude, dict):
        splits = {path: [given] if isinstance(given, str) else given for path, given in exclude.items()}
        if not all(isinstance(each, list) and each for each in splits.values()):
            raise UserError(f"{KEY}={exclude}: name the splits, as in {FORM}")
        return set().union(*(_of_splits(path, names, datasets) for path, names in splits.items()))
    files = [exclude] if isinstance(exclude, str) else exclude
    if not isinstance(files, list) or not all(isinstance(path, str) for path in files):
        raise UserError(f"{KEY}={exclude}: expected {FORM}")
    return set().union(*(_of_file(path, datasets) for path in files))


def _of_splits(path: str, splits: Sequence[str], datasets: Sequence["ShardedDataset"]) -> set[str]:
    from dira_scale.data.manifest import ShardedDataset

    other = ShardedDataset.open(path, check_shards=False)
    for dataset in datasets:
        if dataset.hash != other.hash and (why := dataset.info.incomparable(other.info)):
            raise UserError(
                f"{KEY}: {dataset.root} and {other.root}: {why}, so no patient of both is recognised; shard both with "
                "the same key and recipe.archive, or name the patients in a file"
            )
    for split in splits:
        if split not in other.splits:
            have = f"{', '.join(other.splits)}{nearest(split, other.splits)}"
            raise UserError(f"{KEY}: {other.root} has no split '{split}', but {have}")
    return {patient for split in splits for patient in other.column("patient")[other.rows(split)].tolist()}


def _of_file(path: str, datasets: Sequence["ShardedDataset"]) -> set[str]:
    location = locate(path, KEY)
    if location.is_dir():
        raise UserError(f"{KEY}={path} is a folder; if it is a dataset name its splits, as in {FORM}")
    try:
        keys = {line.strip() for line in fetch(location, LARGEST).decode().splitlines()} - {""}
    except OSError as error:
        raise UserError(f"{KEY}={path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{KEY}={path} is not text: {FORM}") from error
    known = set().union(*(set(dataset.column("patient").tolist()) for dataset in datasets))
    if not keys & known:
        roots = ", ".join(str(dataset.root) for dataset in datasets)
        raise UserError(
            f"{KEY}={path}: none of its {len(keys)} lines is a patient of {roots}; it needs their keys, as in the "
            "manifest's column `patient`, one a line"
        )
    return keys
