"""SEG and RTSTRUCT as the masks of the series that they refer to, by the names of their structures."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import cast

import numpy as np

from dira_scale.archive.imaging.dicom.structures import Structures
from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.imaging.volume import Volume
from dira_scale.archive.imaging.volumes.read import read_volume_mask
from dira_scale.archive.imaging.volumes.series_index import SeriesIndex
from dira_scale.archive.imaging.volumes.structure_mask import MAX_VALUE, value_of
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.storage.text import brief

SHOWN = 8  # names of structures
Owner = tuple[str, str]  # a series' patient and SeriesInstanceUID: some archives reuse one UID for everybody


@dataclass(frozen=True)
class StructureMask:
    """The mask that several files hold together; a ``PaintedMask``."""

    paths: tuple[Path, ...]
    patterns: tuple[str, ...]

    def paint(self, image: GreyImage | Volume) -> np.ndarray:
        """Raises as ``read_volume_mask``."""
        assert isinstance(image, Volume)
        return reduce(np.maximum, (read_volume_mask(path, image, self.patterns) for path in self.paths))


class StructureMasks:
    """The objects that a walk of an archive finds, given to the series that they refer to.

    ``patterns`` has one for each value 1, 2, … of masks, by its name; raises UserError unless it does.
    """

    def __init__(self, patterns: Mapping[str, str]):
        if not is_patterns(patterns) or len(patterns) > MAX_VALUE:
            expected = f'a pattern for each of at most {MAX_VALUE} values, as \'{{lung: "Lung*", tumour: "GTV*"}}\''
            raise ArgumentError("structures", patterns, expected)
        self._by_name, self._patterns = patterns, tuple(patterns.values())
        self._objects = list[tuple[Path, list[Owner], bool]]()  # whether one of its names matches
        self._names = dict[str, int]()  # all that match, and the first others
        self._of = defaultdict[Owner, list[Path]](list)

    def add(self, path: Path, structures: Structures) -> None:
        """Take up a file's structures."""
        values = {name: value_of(name, self._patterns) for name in structures.names.values()}
        owners = [(structures.patient, series) for series in structures.series]
        self._objects.append((path, owners, any(values.values())))
        self._names |= {name: value for name, value in values.items() if value or len(self._names) < SHOWN}

    def check(self, root: Path) -> None:
        """Raise UserError for a pattern that nothing below ``root`` matches."""
        for value, (key, pattern) in enumerate(self._by_name.items(), 1):
            if value not in self._names.values():
                there = ", ".join([*self._names][:SHOWN])
                there = brief(f"there are {there}" if there else "there is none")
                raise ArgumentError(
                    f"structures.{key}", pattern, f"a structure of a SEG or RTSTRUCT in {root}; {there}"
                )

    def match(self, index: SeriesIndex) -> Iterator[tuple[Path, str]]:
        """Give each file to its series; those that are no series' mask, and why."""
        volumes, studies = Counter[Owner](), defaultdict[Owner, set[str]](set)
        for series in index.series():
            volumes[_owner(series.header)] += not series.rejected
            studies[_owner(series.header)].add(series.header.get("study", ""))  # it may be of the one that is refused
        several = {owner for owner in volumes if volumes[owner] > 1 or len(studies[owner]) > 1}
        for path, owners, named in self._objects:
            masked = [owner for owner in owners if named and volumes[owner] == 1 and owner not in several]
            for owner in masked:
                self._of[owner].append(path)
            if not named:
                yield path, "SEG or RTSTRUCT without a structure that was asked for (recipe.structures)"
            elif several.intersection(owners) and not masked:
                yield path, "SEG or RTSTRUCT of a series that is several volumes (echoes, phases, studies)"
            elif not masked:
                yield path, "SEG or RTSTRUCT of a series that is not there, or refused"

    def masked(self, record: SourceRecord, header: Mapping[str, str]) -> SourceRecord:
        """``record`` with its mask: what the CSV names goes first."""
        paths = (cast(Path, record.mask),) if record.mask else tuple(self._of.get(_owner(header), ()))
        return replace(record, mask=StructureMask(paths, self._patterns)) if paths else record


def is_patterns(value: object) -> bool:
    """Return whether ``value`` has patterns by name, and at least one."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(p, str) and p for p in value.values())


def _owner(header: Mapping[str, str]) -> Owner:
    return header.get("patient", ""), header.get("series", "")
