"""Odd names, links, things that are no files, and headers that name other files."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from archive.mutants.damage import Mutant, file, files

ODD_NAMES = (b"n" * 240, b"\x1b[31mred", b"-rf", b"=cmd|' C calc'!A0", b"a\nb", b"%s%n", b"[bold]x", b"<script>", b" ",
             b"a,b", b'"', b"'; DROP TABLE item; --", "x\u202e".encode(), b"\xff\xfe\x80")  # fmt: skip
LINKS = ("/dev/zero", "/proc/kmsg", "nowhere", ".", "..")


def places(name: str, content: bytes, outside: Path) -> Iterator[Mutant]:
    """Odd names of a good file, links to anything and to ``outside``, and what is no file."""
    ending = name.partition(".")[2]
    for odd in ODD_NAMES:
        yield file("good, with an odd name", odd + b"." + ending.encode(), content)
    for empty in ("x.png", "x.dcm", "x.nii.gz", "x.mhd", "x.npz", "x"):
        yield file("no bytes", empty, b"")
    for target in (*LINKS, str(outside), f"link.{ending}"):
        yield _links({f"link.{ending}": target})
    yield _links({f"{n}.{ending}": f"{n + 1}.{ending}" for n in range(50)})  # longer than the kernel follows
    yield Mutant("no regular file", lambda folder: os.mkfifo(folder / f"fifo.{ending}"))
    yield Mutant("no regular file", lambda folder: (folder / f"folder.{ending}" / "inner").mkdir(parents=True))
    yield Mutant("unreadable", lambda folder: ((folder / f"x.{ending}").write_bytes(content),
                                               (folder / f"x.{ending}").chmod(0)))  # fmt: skip


def _links(targets: dict[str, str]) -> Mutant:
    return Mutant("symbolic link", lambda folder: [(folder / name).symlink_to(to) for name, to in targets.items()])


def companions(header: bytes, values: bytes, key: bytes, outside: Path) -> Iterator[Mutant]:
    """Detached headers (MetaImage, NRRD) that name another file of values than their own."""
    name = "x.mhd" if key.startswith(b"Element") else "x.nhdr"
    for target in ("../../etc/passwd", "/dev/zero", "http://127.0.0.1:9/x", "LIST", "", "x%03d.raw 1 9 1", ".", name,
                   "fifo.raw", "link.raw", "secret\0.raw", "~/x.raw", str(outside)):  # fmt: skip
        spoilt = re.sub(key + rb"[^\n]*", lambda _, t=target: key + t.encode(), header)

        def place(folder: Path, spoilt: bytes = spoilt) -> None:
            (folder / name).write_bytes(spoilt)
            os.mkfifo(folder / "fifo.raw")
            (folder / "link.raw").symlink_to(outside)

        yield Mutant("header names another file", place)
    for other in (b"", values[:-1], values * 2):
        yield files("data of another length", {name: header, "x.raw": other})
