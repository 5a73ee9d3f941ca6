"""The identifying values, as the bytes to search for; on disk, as an archive has millions.

Case-insensitive: ASCII by folding both sides, other alphabets by one form per case.
"""

import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dira_scale.shard.curate.audit.search import GRAM, LONG, LONGEST, STRIDE


class Value(NamedTuple):
    """A value of the source, and where it is from: ``PatientName``, ``file name`` …

    ``vr`` is DICOM's (PN, DA …) or empty; ``encodings``: its file's, in addition to UTF-8.
    """

    kind: str
    text: str
    vr: str = ""
    encodings: tuple[str, ...] = ()


class Values:
    """Writes ``folder/values.db`` and ``folder/grams.npy``, which ``search.Searcher`` reads.

    ``words`` (lower case) are the dataset's own and cannot be distinguished from leaks: values that equal one are
    listed by ``not_searched``, and a value within one (thorax in Pneumothorax) is no hit.
    """

    def __init__(self, folder: Path, words: Collection[str]):
        self.folder, self._words = folder, words
        self._table = sqlite3.connect(folder / "values.db")
        self._table.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
            "CREATE TABLE value (form BLOB PRIMARY KEY, kind TEXT, long INT) WITHOUT ROWID;"
            "CREATE TABLE own (text TEXT PRIMARY KEY, kind TEXT) WITHOUT ROWID;"
            "CREATE TABLE word (form BLOB PRIMARY KEY) WITHOUT ROWID"
        )
        self._table.executemany(
            "INSERT OR IGNORE INTO word VALUES (?)", ((word.encode("utf-8", "replace"),) for word in words)
        )

    def add(self, values: Iterable[Value]) -> None:
        for value in values:
            for text in texts(value):
                plain = text.lower()
                if plain in self._words or len(set(plain)) == 1:  # 00000000 and the like identify nobody
                    self._table.execute("INSERT OR IGNORE INTO own VALUES (?, ?)", (plain, value.kind))
                    continue
                rows = [(form, value.kind, len(form) >= LONG) for form in forms(text, value.encodings)]
                self._table.executemany("INSERT OR IGNORE INTO value VALUES (?, ?, ?)", rows)

    def finish(self) -> None:
        """Call after the last ``add``: writes the grams by which the search finds the long values."""
        self._table.commit()
        grams = np.empty(STRIDE * self.count(long=True), "<u8")
        for number, (form,) in enumerate(self._table.execute("SELECT form FROM value WHERE long")):
            for shift in range(STRIDE):
                grams[STRIDE * number + shift] = int.from_bytes(form[shift : shift + GRAM], "little")
        np.save(self.folder / "grams.npy", np.unique(grams))

    def count(self, long: bool) -> int:
        ((count,),) = self._table.execute("SELECT count(*) FROM value WHERE long = ?", [long])
        return int(count)

    def not_searched(self) -> list[tuple[str, str]]:
        """Kind and text of the values that are not searched for."""
        return self._table.execute("SELECT kind, text FROM own ORDER BY kind, text").fetchall()

    def expected_by_chance(self) -> float:
        """Expected hits per byte of random data."""
        lengths = self._table.execute("SELECT form FROM value WHERE long")
        return sum((2 ** len(re.findall(rb"[a-z]", form))) / 256.0 ** len(form) for (form,) in lengths)


def texts(value: Value) -> Iterator[str]:
    """The value itself, the parts of a name, other notations of a date; longer texts line by line."""
    for line in value.text.replace("\0", " ").splitlines():
        line = line.strip()
        if not line:
            continue
        yield line
        if value.vr == "PN":
            yield from (part for part in re.split(r"[\^=\s]+", line) if len(part) > 1)
        if value.vr in ("DA", "DT") and (date := re.match(r"(\d{4})(\d\d)(\d\d)", line)):
            yield "".join(date.groups())
            yield "-".join(date.groups())
            yield ".".join(reversed(date.groups()))


def forms(text: str, encodings: tuple[str, ...]) -> set[bytes]:
    """The bytes to compare, at most ``LONGEST``: a longer value is found by its start."""
    encoded = set()
    for cased in {text, text.lower(), text.upper()}:
        for encoding in ("utf-8", *encodings):
            try:
                encoded.add(cased.encode(encoding, "surrogateescape").lower()[:LONGEST])
            except (UnicodeEncodeError, LookupError):
                continue  # not representable, so it cannot occur in this encoding
    return encoded - {b""}
