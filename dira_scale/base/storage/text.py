"""Untrusted UTF-8 text (tables, lists) with a limit on the length of a row."""

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dira_scale.base.storage.excel import open_table

LONGEST = 2**20  # characters in a row: more is not a table, or one made to exhaust memory


class BoundedLines(Iterator[str]):
    """The lines of a text with their line ends, for ``csv.reader``.

    Raises csv.Error if a row (or a line of a list) is longer than ``LONGEST`` or contains NUL, which no path may.
    """

    def __init__(self, text: io.TextIOWrapper):
        self._text, self._left = text, LONGEST

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise csv.Error(f"longer than {LONGEST} characters: not a row of a table")
        if "\0" in line:
            raise csv.Error("it contains NUL bytes: not a text file")
        if not line:
            raise StopIteration
        return line

    def next_row(self) -> None:
        self._left = LONGEST


@contextmanager
def lines_of(path: Path) -> Iterator[BoundedLines]:
    """The lines of ``path``, read lazily. Raises OSError; iterating may raise UnicodeDecodeError."""
    with open_table(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as text:
        yield BoundedLines(text)


def last_parts(text: str) -> str:
    """``text`` for a page, which may be passed on: of its absolute paths only the last part."""
    return re.sub(r"(?<![\w.:/])~?/(?=\S)(?:[^\s/]+/)*", "", text)


def without_tags(text: str) -> str:
    """``text`` of Markdown in which nothing begins HTML, which names of other people may hold."""
    return re.sub("<(?=[A-Za-z/!?])", "&lt;", text)


def brief(what: str) -> str:
    """``what`` in one line of at most 300 characters."""
    plain = " ".join(what.split())
    return plain if len(plain) < 300 else f"{plain[:150]} … {plain[-100:]}"
