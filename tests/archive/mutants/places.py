"""Odd names, links, things that are no files, and headers that name other files."""

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from archive.mutants.damage import Mutant, file, files

ODD_NAMES = (
    "n" * 240, "\x1b[31mred", "-rf", "=cmd|' C calc'!A0", "a\nb", "%s%n", "[bold]x", "<script>", " ", "ü é", "a,b", '"',
    "'; DROP TABLE item; --", "nul", "\t", "x" * 100 + "\u202e",
)  # fmt: skip
LINKS = {"zero": "/dev/zero", "random": "/dev/urandom", "kernel": "/proc/kmsg", "dangling": "nowhere", "folder": ".",
         "root of itself": ".."}  # fmt: skip


def places(name: str, content: bytes, outside: Path) -> Iterator[Mutant]:
    """Odd names of a good file, links to anything and to ``outside``, and what is no file."""
    ending = name.partition(".")[2]
    for odd in ODD_NAMES:
        yield file("good, with an odd name", f"{odd}.{ending}", content)
    yield file("good, with an odd name", b"\xff\xfe\x80." + ending.encode(), content)
    for empty in ("x.png", "x.dcm", "x.nii.gz", "x.mhd", "x.npz", "x"):
        yield file("no bytes", empty, b"")
    for kind, target in (LINKS | {"outside": str(outside), "self": f"self.{ending}"}).items():
        yield _links({f"{kind}.{ending}": target})
    yield _links({f"loop.{ending}": f"other.{ending}", f"other.{ending}": f"loop.{ending}"})
    yield _links({f"{n}.{ending}": f"{n + 1}.{ending}" for n in range(50)})  # longer than the kernel follows
    yield Mutant("no regular file", lambda folder: os.mkfifo(folder / f"fifo.{ending}"))
    yield Mutant("no regular file", lambda folder: _socket(folder, f"socket.{ending}"))
    yield Mutant("no regular file", lambda folder: (folder / f"folder.{ending}" / "inner").mkdir(parents=True))
    yield Mutant("no regular file", lambda folder: folder.joinpath(*["d" * 30] * 60).mkdir(parents=True))
    yield Mutant("unreadable", lambda folder: ((folder / f"x.{ending}").write_bytes(content),
                                               (folder / f"x.{ending}").chmod(0)))  # fmt: skip


def _links(targets: dict[str, str]) -> Mutant:
    return Mutant("symbolic link", lambda folder: [(folder / name).symlink_to(to) for name, to in targets.items()])


def _socket(folder: Path, name: str) -> None:
    with contextlib.chdir(folder), socket.socket(socket.AF_UNIX) as made:  # sockets have short names
        made.bind(name)


def companions(header: bytes, values: bytes, key: bytes, outside: Path) -> Iterator[Mutant]:
    """Detached headers (MetaImage, NRRD) that name another file of values than their own."""
    name = "x.mhd" if key.startswith(b"Element") else "x.nhdr"
    for target in ("../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin", "http://127.0.0.1:9/x", "LIST", "",
                   "x%03d.raw 1 9 1", ".", "..", name, "n" * 300, "fifo.raw", "link.raw", "zero.raw", "secret\0.raw",
                   "..\\x.raw", "~/x.raw", str(outside)):  # fmt: skip
        spoilt = re.sub(key + rb"[^\n]*", lambda _, t=target: key + t.encode(), header)

        def place(folder: Path, spoilt: bytes = spoilt) -> None:
            (folder / name).write_bytes(spoilt)
            os.mkfifo(folder / "fifo.raw")
            (folder / "link.raw").symlink_to(outside)
            (folder / "zero.raw").symlink_to("/dev/zero")

        yield Mutant("header names another file", place)
    for other in (b"", values[:1], values[:-1], values * 2):
        yield files("data of another length", {name: header, "x.raw": other})
