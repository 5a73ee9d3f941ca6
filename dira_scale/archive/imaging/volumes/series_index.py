"""Group DICOM slices into series while a folder is walked."""

import pickle
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

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
UNNAMED = ""  # SQLite's own temporary file, removed when the process ends, however it ends
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


class _Slice(NamedTuple):
    path: Path
    size: int
    head: Head

    @property
    def kind(self) -> tuple[str, str, str]:
        """Return patient and study, whether it is a scout, and its path if it belongs to no series."""
        scout = "scout" if "LOCALIZER" in self.head.parts[-1].upper() else ""
        alone = str(self.path) if self.head.frames or not self.head.series else ""
        return " ".join(self.head.header.get(name, "") for name in ("patient", "study")), scout, alone


class SeriesIndex:
    """Groups slices by SeriesInstanceUID; localisers (scouts) and multi-frame files are kept separate.

    Equal UIDs of different patients or studies are different series: some archives reuse one UID for everybody. On
    disk: at any time the slices of one UID are in memory.
    """

    def __init__(self) -> None:
        self._table = sqlite3.connect(UNNAMED)
        self._table.executescript("""
            PRAGMA journal_mode = OFF;
            CREATE TABLE slice (number INTEGER PRIMARY KEY, uid TEXT, content BLOB);
            CREATE TABLE series (first INT, content BLOB);
        """)
        self._grouped = True

    def add(self, path: Path, size: int, head: Head) -> None:
        row = head.series or str(path), pickle.dumps(_Slice(path, size, head), pickle.HIGHEST_PROTOCOL)
        self._table.execute("INSERT INTO slice (uid, content) VALUES (?, ?)", [_text(row[0]), row[1]])
        self._grouped = False

    def series(self) -> Iterator[FoundSeries]:
        """All series, in the order of their first slices; those that cannot form a volume under any recipe are rejected
        with a reason."""
        if not self._grouped:
            self._table.execute("DELETE FROM series")
            rows = self._table.execute("SELECT uid, number, content FROM slice ORDER BY uid, number")
            for _, same in groupby(rows, key=itemgetter(0)):
                for first, series in _grouped({number: pickle.loads(content) for _, number, content in same}):
                    self._table.execute("INSERT INTO series VALUES (?, ?)", [first, pickle.dumps(series)])
            self._grouped = True
        for (content,) in self._table.execute("SELECT content FROM series ORDER BY first, rowid"):
            yield pickle.loads(content)


def _text(uid: str) -> bytes:
    return uid.encode(errors="surrogateescape")


def _grouped(slices: Mapping[int, _Slice]) -> Iterator[tuple[int, FoundSeries]]:
    """The series of slices of one UID, by their numbers, each with its first slice's number."""
    groups = defaultdict[tuple[str, str, str], dict[int, _Slice]](dict)
    for number, each in slices.items():
        groups[each.kind][number] = each
    owners = Counter(scout for _, scout, alone in groups if not alone)
    for (whose, scout, alone), group in groups.items():
        first, header, distinct = min(group), group[min(group)].head.header, dict[str, _Slice]()
        for each in sorted(group.values(), key=lambda each: (each.path.parent, each.path.name)):
            if distinct.setdefault(each.head.instance or str(each.path), each) is not each:
                yield first, _found_series(header, [each], "", COPY)
        for part, members in _parts([*distinct.values()]).items():
            shared = whose if owners[scout] > 1 else ""
            what = "" if alone else " ".join(filter(None, [members[0].head.series, shared, scout, part]))
            reason, missing = None, 0
            if scout:
                reason = SCOUT
            elif not alone:
                try:
                    members, missing = _along_normal(members)  # stored in this order
                except RejectedError as error:
                    reason = str(error)
            yield first, _found_series(header, members, what, reason, missing)


def _found_series(
    header: Mapping[str, str], members: Sequence[_Slice], what: str, reason: str | None, missing: int = 0
) -> FoundSeries:
    paths = tuple(each.path for each in members)
    return FoundSeries(what, header, paths, sum(each.size for each in members), reason, missing)


def _parts(slices: Sequence[_Slice]) -> dict[str, Sequence[_Slice]]:
    """Split slices at equal positions by the first of PARTS that separates them; unsplit if none does or need be."""
    if not _are_apart(slices):
        for number, tag in enumerate(PARTS):
            groups = defaultdict[str, list[_Slice]](list)
            for each in slices:
                groups[each.head.parts[number]].append(each)
            if all(map(_are_apart, groups.values())):
                return {f"{tag} {value}": group for value, group in groups.items()}
    return {"": slices}


def _are_apart(slices: Sequence[_Slice]) -> bool:
    positions = np.array([each.head.plane.position if each.head.plane else (np.nan,) * 3 for each in slices])
    return len(np.unique(positions.round(2), axis=0)) == len(slices)


def _along_normal(slices: Sequence[_Slice]) -> tuple[Sequence[_Slice], int]:
    """``slices`` sorted along the normal, and the number missing between them.

    Raises RejectedError if, by their headers, these slices do not form a volume.
    """
    planes = [each.head.plane for each in slices if each.head.plane]
    if len(planes) < len(slices):
        raise RejectedError("slices without position, orientation or spacing")
    if len({each.head.shape for each in slices}) > 1:
        raise RejectedError("slices of different sizes")
    order, geometry = place_slices(planes, (1, 1))
    return [slices[number] for number in order], geometry.missing if isinstance(geometry, Stack) else 0
