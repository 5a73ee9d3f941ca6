"""Group DICOM slices into series while a folder is walked."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dira_scale.archive.imaging.dicom.frames import Plane, plane_of
from dira_scale.archive.imaging.dicom.header import HEADER, is_dicom, read_elements, refuse_objects
from dira_scale.archive.imaging.files import opened_for_header
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.imaging.volumes.regrid import Stack
from dira_scale.archive.imaging.volumes.series import Series
from dira_scale.archive.imaging.volumes.slice_position import place_slices

# Distinguish slices at one position, the first that does: echoes, phases, diffusion weightings, …
PARTS = ("EchoNumbers", "TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber", "ImageType")
SCOUT, COPY = "a localiser (scout), no volume", "a copy of another slice of its series"
ALSO = {"modality": "Modality", "description": "SeriesDescription", "series": "SeriesInstanceUID"}  # in a head's header
GEOMETRY_AND_IDENTITY = (
    "SOPClassUID", "SOPInstanceUID", "NumberOfFrames", "Rows", "Columns",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
)  # fmt: skip


class Head(NamedTuple):
    """The facts about a DICOM file that do not need its pixels."""

    header: Mapping[str, str]  # the values of ``HEADER`` and ``ALSO``
    series: str
    instance: str
    plane: Plane | None
    shape: tuple[str, str]
    parts: tuple[str, ...]  # the values of PARTS
    frames: bool  # has several frames


def head_of(path: Path) -> Head | None:
    """None for a file that is not DICOM. Raises RejectedError."""
    with opened_for_header(path) as file:
        if not is_dicom(file):
            return None
        header, _ = read_elements(file, [*HEADER.values(), *ALSO.values(), *PARTS, *GEOMETRY_AND_IDENTITY])
        refuse_objects(header)

        def text(tag: str) -> str:
            return str(header.get(tag) or "").strip()

        return Head(
            {name: text(tag) for name, tag in {**HEADER, **ALSO}.items() if text(tag)},
            text("SeriesInstanceUID"),
            text("SOPInstanceUID"),
            plane_of(header),
            (text("Rows"), text("Columns")),
            tuple(map(text, PARTS)),
            int(text("NumberOfFrames") or 1) > 1,
        )


class FoundSeries(NamedTuple):
    """One series, or an unusable file of it."""

    what: str  # series UID and part of it; empty: the single file
    header: Mapping[str, str]
    paths: tuple[Path, ...]
    size: int  # bytes
    rejected: str | None
    missing: int = 0  # slices missing between others

    @property
    def image(self) -> Series:
        parents = self.paths[0].parents
        above = next(folder for folder in parents if all(path.is_relative_to(folder) for path in self.paths))
        return Series.of(above, [path.relative_to(above).as_posix() for path in self.paths])


@dataclass
class _ListedSlices:
    """Compact, as there are millions: numbers in arrays, repeated values shared."""

    header: Mapping[str, str]
    folders: list[Path] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: "array[int]" = field(default_factory=lambda: array("q"))
    positions: "array[float]" = field(default_factory=lambda: array("d"))  # three each
    kinds: list[tuple[Any, ...]] = field(default_factory=list)  # orientation, spacing, shape, parts
    instances: "array[int]" = field(default_factory=lambda: array("q"))  # hashes of SOPInstanceUIDs


class SeriesIndex:
    """Groups slices by SeriesInstanceUID; localisers (scouts) and multi-frame files are kept separate.

    Equal UIDs of different patients or studies are different series: some archives reuse one UID for everybody.
    """

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str, str], _ListedSlices] = {}
        self._shared: dict[Any, Any] = {}

    def add(self, path: Path, size: int, head: Head) -> None:
        scout = "scout" if "LOCALIZER" in head.parts[-1].upper() else ""
        alone = str(path) if head.frames or not head.series else ""
        whose = " ".join(head.header.get(name, "") for name in ("patient", "study"))
        slices = self._series.setdefault((head.series, scout, alone, whose), _ListedSlices(head.header))
        slices.instances.append(hash(head.instance or str(path)))
        plane: tuple[Any, ...] = ()
        if head.plane:
            plane = (tuple(head.plane.right.tolist()), tuple(head.plane.down.tolist()), head.plane.spacing)
        kind = (plane, head.shape, head.parts)
        slices.folders.append(self._shared.setdefault(path.parent, path.parent))
        slices.names.append(path.name)
        slices.sizes.append(size)
        slices.positions.extend(head.plane.position if head.plane else (np.nan,) * 3)
        slices.kinds.append(self._shared.setdefault(kind, kind))

    def series(self) -> Iterator[FoundSeries]:
        """All series; those that cannot form a volume under any recipe are rejected with a reason."""
        owners = Counter((uid, scout) for uid, scout, alone, _ in self._series if not alone)
        for (uid, scout, alone, whose), slices in self._series.items():
            shared = whose if owners[uid, scout] > 1 else ""
            firsts: dict[int, int] = {}
            for index in sorted(range(len(slices.names)), key=lambda i: (slices.folders[i], slices.names[i])):
                if firsts.setdefault(slices.instances[index], index) != index:
                    yield _found_series(slices, [index], "", COPY)
            for part, members in _parts(slices, list(firsts.values())).items():
                what, reason = "" if alone else " ".join(filter(None, [uid, shared, scout, part])), None
                missing = 0
                if scout:
                    reason = SCOUT
                elif not alone:
                    try:
                        members, missing = _along_normal(slices, members)  # stored in this order
                    except RejectedError as error:
                        reason = str(error)
                yield _found_series(slices, members, what, reason, missing)


def _found_series(
    slices: _ListedSlices, members: list[int], what: str, reason: str | None, missing: int = 0
) -> FoundSeries:
    paths = tuple(slices.folders[i] / slices.names[i] for i in members)
    return FoundSeries(what, slices.header, paths, sum(slices.sizes[i] for i in members), reason, missing)


def _parts(slices: _ListedSlices, members: list[int]) -> dict[str, list[int]]:
    """Split slices at equal positions by the first of PARTS that separates them; unsplit if none does or need be."""
    positions = np.round(np.array(slices.positions).reshape(-1, 3), 2)
    if len(np.unique(positions[members], axis=0)) < len(members):
        for number, tag in enumerate(PARTS):
            groups = defaultdict(list)
            for index in members:
                groups[slices.kinds[index][-1][number]].append(index)
            if all(len(np.unique(positions[group], axis=0)) == len(group) for group in groups.values()):
                return {f"{tag} {value}": group for value, group in groups.items()}
    return {"": members}


def _along_normal(slices: _ListedSlices, members: list[int]) -> tuple[list[int], int]:
    """``members`` sorted along the normal, and the number missing between them.

    Raises RejectedError if, by their headers, these slices do not form a volume.
    """
    kinds = [slices.kinds[index] for index in members]
    if not all(kind[0] for kind in kinds):
        raise RejectedError("slices without position, orientation or spacing")
    if len({kind[1] for kind in kinds}) > 1:
        raise RejectedError("slices of different sizes")
    positions = np.array(slices.positions).reshape(-1, 3)[members]
    planes = [
        Plane(position, np.array(right), np.array(down), spacing)
        for position, ((right, down, spacing), *_) in zip(positions, kinds, strict=True)
    ]
    order, geometry = place_slices(planes, (1, 1))
    return [members[number] for number in order], geometry.missing if isinstance(geometry, Stack) else 0
