"""What a mutant is, and the odd words of which many are made."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NAME = "Quillfeather^Osbertina"  # stands in every header: must come out nowhere
ODD_NUMBERS = (
    "0",
    "-1",
    "-0.5",
    "nan",
    "inf",
    "1e308",
    "-1e999",
    "65536",
    "2147483648",
    "99999999999999999999",
    "",
    "x",
)
ODD_TEXTS = ("../../etc/passwd", "/dev/zero", "http://127.0.0.1:9/x.raw", "%s%n%03d.raw 1 9 1", "LIST", "\x1b[2J",
             "=1+1", NAME * 20, "\0", "None")  # fmt: skip


class Mutant(NamedTuple):
    """What is done to a folder: ``kind`` for the table of outcomes."""

    kind: str
    place: Callable[[Path], object]  # makes it, in a folder of its own


def file(kind: str, name: str | bytes, content: bytes | Callable[[], bytes]) -> Mutant:
    """One that is a file; ``content`` may be made when it is wanted."""
    return Mutant(
        kind, lambda folder: (folder / os.fsdecode(name)).write_bytes(content() if callable(content) else content)
    )


def files(kind: str, contents: dict[str, bytes]) -> Mutant:
    """One that is several."""
    return Mutant(kind, lambda folder: [(folder / name).write_bytes(content) for name, content in contents.items()])
