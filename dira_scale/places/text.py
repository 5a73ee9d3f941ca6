"""Tables and lists that others wrote: text of UTF-8 whose lines and rows are no longer than they may be."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dira_scale.places.store import open_file

LONGEST = 2**20  # characters of a row: more is no table, or one meant to fill the memory


class Lines(Iterator[str]):
    """The lines of a text, with their ends, as ``csv.reader`` takes them.

    Raises csv.Error, where a row (or a line of a list) is longer than ``LONGEST``, and for NUL, which no path may hold.
    """

    def __init__(self, text: io.TextIOWrapper):
        self._text, self._left = text, LONGEST

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise csv.Error(f"longer than {LONGEST} characters, which is no row of a table")
        if "\0" in line:
            raise csv.Error("it holds NUL bytes, so it is no text")
        if not line:
            raise StopIteration
        return line

    def next_row(self) -> None:
        """Count from here."""
        self._left = LONGEST


@contextmanager
def lines_of(path: Path) -> Iterator[Lines]:
    """The lines of ``path``, which is read as they are asked for. Raises OSError; UnicodeDecodeError in between."""
    with open_file(path) as binary, io.TextIOWrapper(binary, "utf-8-sig", newline="") as text:
        yield Lines(text)


def brief(what: str) -> str:
    """In one line of at most 300 characters, whatever is quoted in it."""
    plain = " ".join(what.split())
    return plain if len(plain) < 300 else f"{plain[:150]} … {plain[-100:]}"
