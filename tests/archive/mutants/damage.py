"""What a mutant is, the odd words of which many are made, and accidents of disks, networks and programs."""

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

NAME = "Quillfeather^Osbertina"  # stands in every header: must come out nowhere
ODD_NUMBERS = ("0", "-1", "nan", "inf", "1e308", "65536", "99999999999999999999", "", "x")
ODD_TEXTS = ("../../etc/passwd", "/dev/zero", "http://127.0.0.1:9/x.raw", "%s%n%03d.raw 1 9 1", "LIST", "\x1b[2J",
             "=1+1", NAME * 20, "\0")  # fmt: skip
ODD_BYTES = (b"", b",", b"\n", b'"', b"\0", b"\xff", b"<", b"{", b"../../x", *(n.encode() for n in ODD_NUMBERS))


class Mutant(NamedTuple):
    """What is done to a folder: ``kind`` for the table of outcomes, ``place`` makes it in a folder of its own."""

    kind: str
    place: Callable[[Path], object]


def files(kind: str, contents: Mapping[str, bytes]) -> Mutant:
    """A mutant of several files."""
    return Mutant(kind, lambda folder: [(folder / name).write_bytes(content) for name, content in contents.items()])


def file(kind: str, name: str | bytes, content: bytes | Callable[[], bytes]) -> Mutant:
    """A mutant of one file; ``content`` may be made when it is wanted."""
    return Mutant(
        kind, lambda folder: (folder / os.fsdecode(name)).write_bytes(content() if callable(content) else content)
    )


def damaged(content: bytes, rng: random.Random, kinds: Sequence[str] = ()) -> tuple[str, bytes]:
    """One accident, of ``kinds`` if given: its kind, and what is left."""
    start, length = rng.randrange(len(content)), rng.randrange(1, min(2000, 2 + len(content) // 4))

    def exchanged(count: int, stop: int) -> bytes:
        """``count`` bytes before ``stop`` become others."""
        changed = bytearray(content)
        for _ in range(count):
            changed[rng.randrange(min(stop, len(changed)))] = rng.choice((0, 255, rng.randrange(256)))
        return bytes(changed)

    accidents: dict[str, Callable[[], bytes]] = {
        "one byte replaced": lambda: exchanged(1, len(content)),
        "ten bytes replaced, header": lambda: exchanged(10, 400),
        "1 % of bytes replaced": lambda: exchanged(1 + len(content) // 100, len(content)),
        "an odd word": lambda: content[:start] + rng.choice(ODD_BYTES) + content[start + rng.randrange(9) :],
        "cut short": lambda: content[: rng.choice((1, 16, 132, 144, 348, len(content) - 1, start))],
        "a part missing": lambda: content[:start] + content[start + length :],
        "a part twice": lambda: content[: start + length] + content[start:],
        "rubbish before": lambda: rng.randbytes(rng.choice((1, 128, 512))) + content,
        "zeros from the middle": lambda: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    }
    kind = rng.choice(list(kinds or accidents))
    return kind, accidents[kind]()
