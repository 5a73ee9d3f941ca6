"""An index on disk of a source's files: ten million rows of a CSV need no more memory than ten."""

import pickle
import sqlite3
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Generic, TypeVar

from dira_scale.base.storage.store import locate

V = TypeVar("V")
TEMPORARY = ""  # SQLite's own temporary file, removed when the process ends, however it ends


class PathIndex(MutableMapping[Path, V], Generic[V]):
    """A ``dict`` keyed by path (of any bytes), in insertion order. Values are pickled. Threads may read it."""

    def __init__(self) -> None:
        self._table = sqlite3.connect(TEMPORARY, check_same_thread=False)  # SQLite serializes access
        self._table.executescript(
            "PRAGMA journal_mode = OFF; CREATE TABLE entry (number INTEGER PRIMARY KEY, path BLOB UNIQUE, value BLOB)"
        )

    def __setitem__(self, path: Path, value: V) -> None:
        self._table.execute(
            "INSERT INTO entry (path, value) VALUES (?, ?) ON CONFLICT (path) DO UPDATE SET value = excluded.value",
            [_bytes(path), pickle.dumps(value, pickle.HIGHEST_PROTOCOL)],
        )

    def __getitem__(self, path: Path) -> V:
        for (value,) in self._table.execute("SELECT value FROM entry WHERE path = ?", [_bytes(path)]):
            return pickle.loads(value)
        raise KeyError(path)

    def __delitem__(self, path: Path) -> None:
        self._table.execute("DELETE FROM entry WHERE path = ?", [_bytes(path)])

    def __iter__(self) -> Iterator[Path]:
        for (path,) in self._table.execute("SELECT path FROM entry ORDER BY number"):
            yield locate(path.decode(errors="surrogateescape"), "recipe.images")

    def __len__(self) -> int:
        ((count,),) = self._table.execute("SELECT count(*) FROM entry")
        return int(count)


def _bytes(path: Path) -> bytes:
    return str(path).encode(errors="surrogateescape")
