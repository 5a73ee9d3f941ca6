"""What the sources of published datasets share: the folder as it is downloaded, its lists, its files."""

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from rich.progress import Progress, TextColumn, TimeElapsedColumn

from dira_scale.errors import UserError, nearest
from dira_scale.imaging.rejection import RejectedError
from dira_scale.ingest.sources.base import Input, SourceRecord
from dira_scale.ingest.sources.files import files_below, size_of
from dira_scale.ingest.sources.text import brief, lines_of

CHUNK = 64  # files that a thread is given at a time
T = TypeVar("T")


class Line(NamedTuple):
    """A line of a published table: the cells of the columns that were asked for, without blanks around them."""

    number: int
    cells: tuple[str, ...]


def listed_in(root: Path, *names: str) -> Path:
    """The first of ``names`` that is a file in ``root`` (releases differ). Raises UserError when none is."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise UserError(
        f"recipe.images={root} holds no {' and no '.join(names)}: give the folder that was downloaded, with its lists "
        "beside the images (the recipe's file says what belongs into it)"
    )


def wrong(path: Path, what: str, line: Line | None = None) -> UserError:
    """What is wrong with a list, in one line of bounded length whatever its cells hold."""
    where = f"{path}, line {line.number}" if line else f"{path}"
    return UserError(f"{where}: {brief(what)}")


def folder_in(root: Path, name: str) -> Path:
    """A folder in ``root``. Raises UserError when there is none."""
    if not (root / name).is_dir():
        raise UserError(f"recipe.images={root} holds no folder {name}")
    return root / name


def read_columns(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    """The lines of a table with a header, one at a time: published lists have up to a million.

    Blanks around the header's cells do not count, nor do cells beyond the columns asked for; cells that a line lacks
    are empty, empty lines are left out. Raises UserError when a column is absent or the file is no UTF-8 text.
    """
    with lines_of(path) as lines:
        table = csv.reader(lines)
        try:
            header = [cell.strip() for cell in next(table, [])]
            for column in columns:
                if column not in header:
                    known = nearest(column, header) or f"; it has {', '.join(filter(None, header)) or 'no header'}"
                    raise wrong(path, f"no column '{column}'{known}")
            places = [header.index(column) for column in columns]
            if twice := [column for column in columns if header.count(column) > 1]:
                raise wrong(path, f"two columns '{twice[0]}'")
            for row in table:
                lines.next_row()
                if any(row):
                    yield Line(table.line_num, tuple(row[n].strip() if n < len(row) else "" for n in places))
        except (UnicodeDecodeError, csv.Error) as error:
            raise wrong(path, f"not a table of UTF-8 text after line {table.line_num} ({error})") from error


def read_names(path: Path) -> Iterator[str]:
    """The lines of a list of names. Raises UserError when it is no UTF-8 text."""
    try:
        with lines_of(path) as lines:
            for line in lines:
                lines.next_row()
                if name := line.strip():
                    yield name
    except (UnicodeDecodeError, csv.Error) as error:
        raise wrong(path, f"not a list of UTF-8 text ({error})") from error


def number(path: Path, line: Line, cell: int) -> float:
    """A cell's finite number. Raises UserError naming the line."""
    try:
        value = float(line.cells[cell])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise wrong(path, f"'{line.cells[cell]}' is not a number", line)
    return value


def files_ending(root: Path, *endings: str) -> Iterator[Path]:
    """The files below ``root`` whose names end so, upper or lower case."""
    return (path for path in files_below(root) if path.name.lower().endswith(endings))


def threaded(function: Callable[[T], SourceRecord], items: Iterable[T], workers: int) -> Iterator[SourceRecord]:
    """``function`` of each item, in order, by threads, as looking at files is waiting for them; with a bar."""
    rest, threads = iter(items), 4 * workers
    columns = (TextColumn("listing"), TextColumn("{task.completed} images"), TimeElapsedColumn())
    with Progress(*columns) as bar, ThreadPoolExecutor(threads) as pool:
        task = bar.add_task("", total=None)
        while parts := [part for _ in range(threads) if (part := list(islice(rest, CHUNK)))]:
            for records in pool.map(lambda part: list(map(function, part)), parts):
                bar.advance(task, len(records))
                yield from records


def once(records: Iterable[SourceRecord], root: Path) -> Iterator[SourceRecord]:
    """The first record of each name; the others are rejected, by where their files lie below ``root``."""
    met = set[str]()
    for record in records:
        if record.name in met:
            place = _paths(record)[0].relative_to(root).as_posix()
            name = next(name for n in count(1) if (name := place if n == 1 else f"{place} {n}") not in met)
            record = replace(record, name=name, rejected="one of this name was met before")
        met.add(record.name)
        yield record


def sized(record: SourceRecord) -> SourceRecord:
    """The record with the bytes of its image's files; rejected if one of them cannot be read."""
    if record.rejected is not None:
        return record
    try:
        return replace(record, size=sum(map(size_of, _paths(record))))
    except RejectedError as error:
        return replace(record, rejected=str(error))


def _paths(record: SourceRecord) -> tuple[Path, ...]:
    return record.image.paths if isinstance(record.image, Input) else (record.image,)
