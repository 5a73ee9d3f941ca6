"""Lists of images or patients per split, as papers publish them beside their code: one text file for each split."""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from dira_scale.archive.sources.base import SourceRecord
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import print_line
from dira_scale.base.storage.store import open_file
from dira_scale.base.storage.tables import read_names, table_error
from dira_scale.base.storage.text import brief
from dira_scale.base.storage.walk import folder_at

MASK = re.compile(r"(.*[_\W])?(masks?|segs?|segmentations?|labelst[rs])", re.IGNORECASE)
KEY, GROUP = "patient_pattern", "patient"
UNMATCHED = "recipe.patient_pattern does not match its path"  # in tables of what was rejected


def is_mask(name: str) -> bool:
    """Return whether a folder in a record's name, or the file's name without its suffix, ends like those of masks."""
    *folders, file = name.split("/")
    return any(MASK.fullmatch(part) for part in (*folders, file.partition(".")[0]))


def with_note(records: Iterator[SourceRecord]) -> Iterator[SourceRecord]:
    """``records`` without those that nobody asked for; at their end says how many these are, and how many of the others
    are masks by their names."""
    count, first, aside, example = 0, "", Counter[str](), dict[str, str]()
    for record in records:
        if record.aside:
            aside[record.aside] += 1
            example.setdefault(record.aside, record.name)
            continue
        if record.rejected is None and is_mask(record.name):
            count, first = count + 1, first or record.name
        yield record
    for what, number in aside.most_common():
        print_line(f"not used: {number} x {what} ({brief(example[what])}{' …' if number > 1 else ''})")
    if count:
        print_line(
            f"warning: {count} of the inputs are masks by their names, {brief(first)} for example, and are taken for "
            "images: keep them out of recipe.images, or name them in a table (recipe.labels, recipe.columns.mask)"
        )


class PatientPattern:
    """A regular expression whose one group, or group ``patient``, is the patient. Raises UserError if it has none."""

    def __init__(self, text: str):
        try:
            self._pattern = re.compile(text)
        except (re.error, TypeError) as error:
            raise ArgumentError(KEY, text, f"a regular expression ({error})") from error
        named, count = GROUP in self._pattern.groupindex, self._pattern.groups
        if not named and count != 1:
            part = "the part that is the patient between ( and )"
            others = f"or between (?P<{GROUP}> and ) if there are others; it has {count or 'no'} groups"
            raise ArgumentError(KEY, text, f"{part}, {others}")
        self._group: str | int = GROUP if named else 1

    def patient(self, path: str) -> str | None:
        """Return the patient of the file at ``path``, relative to ``recipe.images``, with / between folders; None where
        it finds none."""
        match = self._pattern.search(path)
        return (match[self._group] or None) if match else None


SPLITS = ("train", "val", "test")


def split_lists(folder: str) -> dict[str, Path]:
    """The lists in ``folder`` by split: the one ``.txt`` or ``.csv`` file that is named after it, such as
    ``X_train_official.txt``.

    Files named after no split, or after two (``train_val_list.txt``), are ignored.

    Raises:
        UserError: no such folder; no list for train or val; two lists for a split.
    """
    lists: dict[str, Path] = {}
    root = folder_at(folder, "recipe.lists")
    for path in sorted(path for path in root.iterdir() if path.suffix.lower() in (".txt", ".csv")):
        named = set(re.split(r"[^a-z]+", path.stem.lower())) & set(SPLITS)
        if len(named) == 1:
            other = lists.setdefault(split := named.pop(), path)
            if other != path:
                raise ArgumentError("lists", folder, f"one list for {split}, not {other.name} and {path.name}")
    if missing := [split for split in SPLITS[:2] if split not in lists]:
        raise ArgumentError(
            "lists",
            folder,
            f"a folder with a text file that is named after {missing[0]}, such as {missing[0]}.txt, one name a line",
        )
    return lists


def checksums(lists: Mapping[str, Path]) -> dict[str, str]:
    """The SHA-256 of each list, hex: which lists a dataset was made with, without their names on this machine."""
    sums = {}
    for split, path in lists.items():
        with open_file(path) as file:
            sums[split] = hashlib.sha256(file.read()).hexdigest()
    return sums


def splits_of(lists: Mapping[str, Path], images: Collection[str], labels: int) -> dict[str, str]:
    """The split of every listed image. A line is an image's name, alone or with its ``labels`` numbers, 0 or 1.

    The numbers are checked, not used: the dataset's own table has the labels.

    Raises:
        UserError: a line of another form; an image that is not among ``images``; an image listed twice.
    """
    splits: dict[str, str] = {}
    for split, path in lists.items():
        for name, *numbers in map(str.split, read_names(path)):
            if numbers and (len(numbers) != labels or set(numbers) - {"0", "1"}):
                raise table_error(path, f"expected the image's name alone or followed by {labels} labels, each 0 or 1; "
                                        f"got {len(numbers)} after {name}: {' '.join(numbers)}")  # fmt: skip
            if name not in images:
                raise table_error(path, f"{name} is not an image of this dataset")
            if name in splits:
                also = "twice in this list" if splits[name] == split else f"also in {lists[splits[name]].name}"
                raise table_error(path, f"{name} is {also}: keep one of the lines")
            splits[name] = split
    return splits


def splits_of_patients(lists: Mapping[str, Path]) -> dict[str, str]:
    """The split of every listed patient, one a line, below the lists' common first line, if they have one. Raises
    UserError for a patient in two lists."""
    named = {split: [*read_names(path)] for split, path in lists.items()}
    heading = int(len({tuple(names[:1]) for names in named.values()}) == 1)
    splits: dict[str, str] = {}
    for split, path in lists.items():
        for name in named[split][heading:]:
            if splits.setdefault(name, split) != split:
                raise table_error(path, f"{name} is also in {lists[splits[name]].name}: keep one of the lines")
    return splits


def listed_patients(records: Iterable[SourceRecord], splits: Mapping[str, str]) -> Iterator[SourceRecord]:
    """``records`` in the ``splits`` of their patients; those of other patients are rejected. Says at the end how many
    listed patients have no record."""
    absent = dict(splits)
    for record in records:
        split = splits.get(record.patient or "")
        absent.pop(record.patient or "", None)
        rejected = record.rejected or (None if split else "its patient is in none of recipe.lists")
        yield replace(record, split=split, rejected=rejected)
    if absent:
        names = f"{len(absent)} of {len(splits)} names are of no patient"
        print_line(f"recipe.lists: {names} in recipe.images ({brief(next(iter(absent)))})")
