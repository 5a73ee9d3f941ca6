"""Shared by the sources of published datasets: the downloaded folder, its lists, its files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, count, islice
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from dira_scale.archive.imaging.dicom.header import header_of
from dira_scale.archive.imaging.files import size_of
from dira_scale.archive.imaging.rejection import RejectedError
from dira_scale.archive.sources.base import SourceImage, SourceRecord
from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.base.storage.text import brief
from dira_scale.base.storage.walk import files_below

CHUNK = 64  # files per task of a thread
T = TypeVar("T")
R = TypeVar("R")


def listed_in(root: Path, *names: str, key: str = "images") -> Path:
    """The first of ``names`` that is a file in ``root`` (releases differ). Raises ArgumentError if none is."""
    for name in names:
        if (root / name).is_file():
            return root / name
    lists = "with its lists beside the images (the comments in the recipe's file describe it)"
    raise ArgumentError(key, str(root), f"the downloaded folder, with {' or '.join(names)}, {lists}")


def folder_in(root: Path, name: str) -> Path:
    """The folder ``name`` in ``root``. Raises ArgumentError if it does not exist."""
    if not (root / name).is_dir():
        raise ArgumentError("images", str(root), f"a folder that has one named {name}")
    return root / name


def files_ending(root: Path, *endings: str) -> Iterator[Path]:
    """The files below ``root`` with one of these endings, in any case."""
    return (path for path in files_below(root) if path.name.lower().endswith(endings))


def by_name(
    listed: Iterable[SourceRecord], root: Path, *endings: str, folders: Iterable[Path] = ()
) -> Iterator[SourceRecord]:
    """Records of tables that name files without folders and endings, each with its file, wherever it is in ``folders``
    (none: in ``root``); rejected if it is missing, as are files without a record or of a name that has been met.

    Raises UserError for two records of one name.
    """
    there, met = dict[str, Path](), set[str]()
    for path in (path for folder in list(folders) or [root] for path in files_ending(folder, *endings)):
        ending = next(ending for ending in endings if path.name.lower().endswith(ending))
        if there.setdefault(path.name[: -len(ending)], path) is not path:
            yield SourceRecord(path.relative_to(root).as_posix(), path, rejected="a duplicate of this name")
    for record in listed:
        if record.name in met or not record.name:
            what = f"two lines for {brief(record.name)}: keep one" if record.name else "a line that names no image"
            raise UserError(f"the tables of {root} have {what}")
        met.add(record.name)
        if record.name in there:
            yield replace(record, image=there[record.name])
        else:
            yield replace(record, image=root / record.name, rejected=record.rejected or "listed, but missing")
    for name in there.keys() - met:
        yield SourceRecord(name, there[name], rejected="no line in the tables")


def in_threads(function: Callable[[T], R], items: Iterable[T], workers: int, what: str = "images") -> Iterator[R]:
    """``function`` of each item, in order, in threads (file access is mostly waiting), with a progress bar."""
    threads, rest = 4 * workers, iter(items)
    if not (first := list(islice(rest, CHUNK))):
        return
    rest = chain(first, rest)
    columns = (TextColumn("listing"), TextColumn(f"{{task.completed}} {what}"), TimeElapsedColumn())
    with Progress(*columns) as bar, ThreadPoolExecutor(threads) as pool:
        task = bar.add_task("", total=None)
        while parts := [part for _ in range(threads) if (part := list(islice(rest, CHUNK)))]:
            for records in pool.map(lambda part: list(map(function, part)), parts):
                bar.advance(task, len(records))
                yield from records


def reject_repeated(records: Iterable[SourceRecord], root: Path) -> Iterator[SourceRecord]:
    """Records with unique names: repeated ones are rejected, and named by their path below ``root``."""
    met = set[str]()
    for record in records:
        if record.name in met:
            path = _paths(record)[0].relative_to(root).as_posix()
            name = next(name for n in count(1) if (name := path if n == 1 else f"{path} {n}") not in met)
            record = replace(record, name=name, rejected="a duplicate of this name")
        met.add(record.name)
        yield record


class ListedFiles(ABC):
    """A source whose ``listed`` names its files, and opens no image."""

    root: Path
    label_names: Sequence[str] = ()

    @abstractmethod
    def listed(self) -> Iterator[SourceRecord]:
        """The records, without sizes."""

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """``listed``, each with its size; rejects unreadable files and repeated names."""
        return reject_repeated(in_threads(with_size, self.listed(), workers), self.root)


class ListedNames(ABC):
    """A source whose tables name images without folders and endings; the files are at any depth of ``folders``."""

    root: Path
    endings: tuple[str, ...]
    folders: Sequence[Path] = ()  # none: ``root``
    attributes: Sequence[str] = ()
    in_headers = False  # the attributes are DICOM's

    @abstractmethod
    def listed(self) -> Iterator[SourceRecord]:
        """The records of the tables, each with ``root`` in the place of its file."""

    def with_file(self, record: SourceRecord) -> SourceRecord:
        """Return the record completed by its file: with its size, and the attributes that its header has."""
        return with_header(record, self.attributes)[0] if self.in_headers else with_size(record)

    def records(self, workers: int) -> Iterator[SourceRecord]:
        """``listed``, each with its file; rejects those without one, and files that no table names (``by_name``)."""
        records = by_name(self.listed(), self.root, *self.endings, folders=self.folders)
        return in_threads(self.with_file, records, workers)


def with_size(record: SourceRecord) -> SourceRecord:
    """The record with the size of its image's files; rejected if one cannot be read."""
    if record.rejected is not None:
        return record
    try:
        return replace(record, size=sum(map(size_of, _paths(record))))
    except RejectedError as error:
        return replace(record, rejected=str(error))


def with_header(record: SourceRecord, names: Collection[str]) -> tuple[SourceRecord, dict[str, str]]:
    """The record with its size and the attributes ``names`` of its DICOM header, and the header; rejected if it cannot
    be read."""
    record = with_size(record)
    if record.rejected is not None:
        return record, {}
    assert not isinstance(record.image, SourceImage)
    try:
        header = header_of(record.image)
    except RejectedError as error:
        return replace(record, rejected=str(error)), {}
    return replace(record, attributes={name: header[name] for name in names if name in header}), header


def _paths(record: SourceRecord) -> tuple[Path, ...]:
    return record.image.paths if isinstance(record.image, SourceImage) else (record.image,)
