"""The journal of a prediction, one line an image, so that a killed call can resume: rows of images that were predicted
or refused, or looked at (`localize`). Its first line describes the prediction."""

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import as_user_error, remedy
from dira_scale.base.storage.owned import check_own
from dira_scale.train.runs.files import read_json

FILE = ".unfinished.jsonl"


class Journal:
    """Attributes:
    done: rows by key.
    """

    def __init__(self, file: Any, done: dict[str, dict[str, Any]]) -> None:
        self.done, self._file = done, file

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """On the disk when this returns, as far as a killed process is concerned."""
        self.done[key] = dict(row)
        self._file.write(json.dumps({"key": key, **row}) + "\n")
        self._file.flush()


@contextmanager
def journal(out: Path, about: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the journal of the prediction ``about`` in ``out``, which is this process's alone.

    Raises UserError if another process has it, or another prediction was begun there.
    """
    with (out / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is writing to out={out}: wait for it, or choose another") from error
        file.seek(0)
        lines = file.read().splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):  # killed while it was written
            file.truncate(sum(len(line.encode()) for line in whole))
        rows = [json.loads(line) for line in whole]
        if rows:
            check_same(out, rows[0], about)
        else:
            file.write(json.dumps(about) + "\n")
        yield Journal(file, {row.pop("key"): row for row in rows[1:]})


@contextmanager
def rows_are_kept(out: Path) -> Iterator[None]:
    """Turn a failing write to ``out`` inside into a ``UserError`` with what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}); what is finished is kept: {remedy(error)}, then run "
            "the same command again"
        ) from error


def is_complete(out: Path, kind: str, file: str, about: Mapping[str, Any]) -> bool:
    """Return whether ``out`` has the results ``about``, whose ``file`` is written last. Writes nothing.

    Raises UserError if it is not a folder of this ``kind``, or has other results.
    """
    with as_user_error(out, "out"):
        begun = check_own(out, kind, "out")
    if complete := begun and (out / file).is_file():
        check_same(out, read_json(out / file, dict[str, Any]()), about)
    return complete


def check_same(out: Path, begun: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Raise UserError, with what differs, if ``out`` has another prediction."""
    if differing := [name for name in about if begun.get(name) != json.loads(json.dumps(about[name]))]:
        raise UserError(f"out={out} has results of another {', '.join(differing)}: use another out, or delete it")
