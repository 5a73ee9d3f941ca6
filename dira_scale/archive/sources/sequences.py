"""MR sequences, or other series of one session, in files of their own: by patterns of names or of descriptions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

from dira_scale.archive.imaging.volumes.channels import Channels
from dira_scale.archive.imaging.volumes.series import Series
from dira_scale.archive.imaging.volumes.series_index import COPY, SCOUT, SeriesIndex
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.archive.sources.inspect import Inspector, inspect_volume
from dira_scale.archive.sources.label_columns import ClassSpec
from dira_scale.archive.sources.published import in_threads, with_size
from dira_scale.archive.sources.structure_masks import is_patterns
from dira_scale.archive.sources.volumes import Volumes, above
from dira_scale.base.arguments import UNSHOWN, ArgumentError
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import nearest, print_line
from dira_scale.base.storage.store import is_local
from dira_scale.base.storage.text import brief
from dira_scale.base.storage.walk import files_below, resolve_links
from dira_scale.dataset.pixels.limits import MAX_CHANNELS

MISSING = ("keep", "reject")
MASK = "the mask"  # beside the names of sequences
Files = dict[str, list[Path | Series]]  # by sequence, or ``MASK``


class Session(NamedTuple):
    """A group of files that belong together. ``patient``: None: unknown."""

    name: str
    patient: str | None = None


Found = tuple[str, dict[str, Session], Path | Series]  # what it is called; by sequence the session; the file or series


class Sequences(Volumes):
    """Sessions below ``images``, whose files are the channels of one volume, on the grid of the first that is there.

    Files of one folder whose names have the same in the place of a pattern's first ``*`` are a session: with
    ``{T1: "*_t1.nii.gz", FLAIR: "*_flair.nii.gz"}`` a_t1.nii.gz and a_flair.nii.gz; with ``{T1: "t1/*.nii"}`` the
    folder is the one above t1. Other files are left alone. A row of the CSV names one of a session's files, or a
    folder of sessions.

    Args:
        sequences: a pattern by the channel's name, in the channels' order.
        series: in the place of ``sequences`` patterns of DICOM's SeriesDescription, in any case; a session is a study.
        missing: sessions without one: ``keep``: a channel of zeros, which teaches nothing; ``reject``: to quarantine.
        mask: a pattern; the mask is on the grid of the first sequence.
        split_sequences: each sequence is a sample of its own, whose study is the session.

    Others as ``Volumes``, but for ``boxes``.

    Attributes:
        whole: whether a pattern that matches no file is a mistake, as in an archive; a few sessions may all lack one.

    Raises:
        UserError: as ``Volumes``; a file that two patterns match; if ``whole``, a pattern that matches no file, else if
            none does.
    """

    whole = True

    def __init__(
        self,
        images: PathStr,
        sequences: Mapping[str, str] | None = None,
        series: Mapping[str, str] | None = None,
        missing: str = "keep",
        mask: str | None = None,
        split_sequences: bool = False,
        labels: PathStr | None = None,
        columns: Mapping[str, str | None] | None = None,
        label_columns: Sequence[str] | None = None,
        label_rules: Mapping[str, Mapping[str, str]] | None = None,
        class_columns: ClassSpec = None,
        patient_pattern: str | None = None,
        attributes: Sequence[str] = (),
    ):
        if (sequences is None) == (series is None) or (series and mask):
            either = "one of sequences (files) and series (DICOM's SeriesDescription, without a mask), to name them by"
            raise ArgumentError("sequences", sequences, either)
        self.key, globs = ("sequences", sequences) if series is None else ("series", series)
        if globs is None or not is_patterns(globs):
            example = '{T1: "*_t1.nii.gz", FLAIR: "*_flair.nii.gz"}' if series is None else '{T1: "*t1*"}'
            raise ArgumentError(self.key, globs, f"a pattern for each, such as '{example}'")
        if len(globs) > MAX_CHANNELS:
            raise ArgumentError(self.key, UNSHOWN, f"at most {MAX_CHANNELS}, not {len(globs)}")
        if missing not in MISSING:
            raise ArgumentError("missing", missing, f"{' or '.join(MISSING)}{nearest(missing, MISSING)}")
        if mask and split_sequences:
            raise ArgumentError("mask", mask, "null with split_sequences: it is on the grid of the first sequence")
        super().__init__(
            images, labels, None, columns, label_columns, label_rules, class_columns, patient_pattern, attributes
        )
        self.names, self.missing, self.split_sequences = tuple(globs), missing, split_sequences
        self.globs = {**globs, **({MASK: mask} if mask else {})}
        self.patterns = {name: _regex(glob) for name, glob in self.globs.items()}
        self.headers = dict[Session, Mapping[str, str]]()  # of DICOM
        self.unread = list[SourceRecord]()  # files of no series, as their headers are damaged
        self.channels = self.names if len(self.names) > 1 and not split_sequences else ()

    @classmethod
    def inspector(cls, arguments: Mapping[str, Any]) -> Inspector | None:
        """None for patterns of names: nothing but names is read of these files."""
        return super().inspector(arguments) if arguments.get("series") else None

    def _all(self, workers: int) -> Iterator[SourceRecord]:
        """Sessions, or each sequence of them; then the CSV's rows without any. Raises OSError as ``Folder.records``."""
        sessions = self._sessions(workers)
        for note in self.notes:
            print_line(note)
        parts = [(name,) for name in self.names] if self.split_sequences else [self.names]
        items = ((session, names) for session in sessions for names in parts)
        met = set[Path]()
        yield from self.unread

        def record(item: tuple[Session, tuple[str, ...]]) -> SourceRecord:
            session, names = item
            return self._session_record(session, names, sessions[session], met)

        if self.split_sequences:  # nothing is there to be rejected
            items = (item for item in items if item[1][0] in sessions[item[0]])
        yield from in_threads(record, items, workers)
        for path in self.listed:
            if path not in met:
                absent = self._absent(path)
                yield replace(absent, rejected="no sequence is there") if self._exists(path) else absent

    def _exists(self, path: Path) -> bool:
        return super()._exists(path) or (not is_local(path) and resolve_links(path) in self._folders)

    @cached_property
    def _folders(self) -> set[Path]:
        """The folders of a store, which has none but in the names of files."""
        return {folder for file in self.stored for folder in file.parents}

    def _sessions(self, workers: int) -> dict[Session, Files]:
        """The files of each session. Raises UserError as the class."""
        sessions, matches, first = dict[Session, Files](), set[str](), ""
        listed = self._named() if self.key == "sequences" else self._described(workers)
        for called, matched, part in listed:
            first = first or called
            if len(matched) > 1:
                both = f"patterns of which one matches, not both {' and '.join(matched)}, "
                raise ArgumentError(self.key, UNSHOWN, both + brief(called))
            for name, session in matched.items():
                sessions.setdefault(session, {}).setdefault(name, []).append(part)
                matches.add(name)
        lacking = [name for name in self.patterns if name not in matches]
        if lacking and (self.whole or not matches):
            key = "mask" if lacking[0] == MASK else f"{self.key}.{lacking[0]}"
            there = brief(f"there is {first}" if first else "nothing is there")
            raise ArgumentError(
                key, self.globs[lacking[0]], f"a pattern that matches something in {self.root}; {there}"
            )
        return sessions

    def _named(self) -> Iterator[Found]:
        for path in files_below(self.root):
            relative = path.relative_to(self.root).as_posix()
            matched = ((name, self._session(pattern, relative)) for name, pattern in self.patterns.items())
            yield relative, {name: session for name, session in matched if session}, path

    def _described(self, workers: int) -> Iterator[Found]:
        """The DICOM series of each study; of what cannot be read as one, reading says why."""
        index = SeriesIndex()
        for inspected in self._inspected(workers, partial(inspect_volume, structures=False)):
            if inspected.head and inspected.size is not None:
                index.add(inspected.path, inspected.size, inspected.head)
            elif inspected.rejected:
                self.unread.append(self._file(inspected))
        for series in index.series():
            if series.rejected not in (SCOUT, COPY):
                description, header = series.header.get("description", ""), series.header
                session = Session(f"{header.get('patient', '')} {header.get('study', '')}", header.get("patient"))
                self.headers.setdefault(session, header)
                matched = (name for name, glob in self.globs.items() if fnmatch(description.lower(), glob.lower()))
                yield description, dict.fromkeys(matched, session), series.image

    def _session(self, pattern: "re.Pattern[str]", path: str) -> Session | None:
        """Return whose file ``path``, below ``images``, is by a sequence's ``pattern``; None if it does not match."""
        match = pattern.fullmatch(path)
        stem = (match.groups()[1:] or ("",))[0] if match else ""
        return Session(f"{match[1]}{stem}".rstrip("/") or ".") if match else None

    def _session_record(self, session: Session, names: tuple[str, ...], files: Files, met: set[Path]) -> SourceRecord:
        parts = tuple(files[name][0] if name in files else None for name in names)
        every = [part for of_name in files.values() for part in of_name]
        image: Path | SourceImage = Channels(names, parts) if len(names) > 1 and any(parts) else parts[0] or every[0]
        own = [part for name in names for part in files.get(name, ())] if self.split_sequences else every
        rows = self._rows(own) or self._rows(every)
        met |= rows
        row = min(rows, default=None)
        name = f"{session.name} {names[0]}" if self.split_sequences else session.name
        listed = self.listed[row] if row else self._unlisted(name)
        record = SourceRecord(name, image, labels=listed.labels)
        header = self.headers.get(session) or ({"patient": session.patient} if session.patient else {})
        record = with_size(self._completed(record, listed.row, header))
        mask = next((part for part in files.get(MASK, ()) if not isinstance(part, Series)), None)
        record = replace(record, study=record.study or session.name, mask=record.mask or mask)
        several = [name for name in (*names, *([MASK] if MASK in files else [])) if len(files.get(name, ())) > 1]
        if len(rows) > 1:
            return replace(
                record, rejected="files of one session in several rows of the CSV: name one of them, or their folder"
            )
        if several:
            first, count = several[0], len(files[several[0]])
            return replace(
                record,
                rejected=f"{first}: {count} files of one session match its pattern; make it narrower, or keep one",
            )
        if not any(parts) or (self.missing == "reject" and not all(parts)):
            count = sum(part is None for part in parts)
            return replace(record, rejected=f"without {count} of the sequences (recipe.missing)")
        return record

    def _rows(self, parts: Sequence[Path | Series]) -> set[Path]:
        """The rows of the CSV that name these files, or folders above them."""
        paths = [part.paths[0] if isinstance(part, Series) else part for part in parts]
        return {row for path in paths if (row := above(path, self.listed) or above(resolve_links(path), self.listed))}

    def _matched(self, record: SourceRecord) -> str | None:
        """The patient by ``recipe.patient_pattern`` of the first file's path."""
        assert self.pattern is not None
        path = record.image.paths[0] if isinstance(record.image, SourceImage) else record.image
        return self.pattern.patient(self._name(path, path))


def _regex(glob: str) -> "re.Pattern[str]":
    """Groups: the folder above, then what stands in the place of the first ``*``; a ``*`` matches no ``/``.

    Behind the first ``*`` the parts between two are where they are met first, and never tried elsewhere: else the time
    would grow exponentially with their number.
    """
    first, *parts = ("".join("[^/]" if c == "?" else re.escape(c) for c in part) for part in glob.split("*"))
    if parts:
        first += f"([^/]*){parts.pop(0)}"
    if parts:
        last = parts.pop()
        first += "".join(f"(?>[^/]*?{part})" for part in parts) + f"[^/]*{last}"
    return re.compile(f"((?:.*/)?){first}")
