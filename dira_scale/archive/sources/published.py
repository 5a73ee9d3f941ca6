"""Shared by the sources of published datasets: the downloaded folder, its lists, its files."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from dira_scale.archive.sources.base import Input, SourceRecord
from dira_scale.errors import UserError
from dira_scale.imaging.files import size_of
from dira_scale.imaging.rejection import RejectedError
from dira_scale.storage.walk import files_below

CHUNK = 64  # files per task of a thread
T = TypeVar("T")


def listed_in(root: Path, *names: str) -> Path:
    """The first of ``names`` that is a file in ``root`` (releases differ). Raises UserError if none is."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(
        f"recipe.images={root} holds no {' and no '.join(names)}: give the downloaded folder, with its lists "
        "beside the images (the comments in the recipe's file describe it)"
    )


def folder_in(root: Path, name: str) -> Path:
    """The folder ``name`` in ``root``. Raises UserError if it does not exist."""
    if not (root / name).is_dir():
        raise UserError(f"recipe.images={root} holds no folder {name}")
    return root / name


def files_ending(root: Path, *endings: str) -> Iterator[Path]:
    """The files below ``root`` with one of these endings, in any case."""
    return (path for path in files_below(root) if path.name.lower().endswith(endings))


def in_threads(function: Callable[[T], SourceRecord], items: Iterable[T], workers: int) -> Iterator[SourceRecord]:
    """``function`` of each item, in order, in threads (file access is mostly waiting), with a progress bar."""
    rest, threads = iter(items), 4 * workers
    columns = (TextColumn("listing"), TextColumn("{task.completed} images"), TimeElapsedColumn())
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


def with_size(record: SourceRecord) -> SourceRecord:
    """The record with the size of its image's files; rejected if one cannot be read."""
    if record.rejected is not None:
        return record
    try:
        return replace(record, size=sum(map(size_of, _paths(record))))
    except RejectedError as error:
        return replace(record, rejected=str(error))


def _paths(record: SourceRecord) -> tuple[Path, ...]:
    return record.image.paths if isinstance(record.image, Input) else (record.image,)
