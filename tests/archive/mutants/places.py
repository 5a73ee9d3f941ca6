"""Odd names, links, things that are no files, and headers that name other files."""

# ruff: noqa: E501 (tables of odd names)
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from archive.mutants.mutant import Mutant, file, files


def places(valid: dict[str, bytes], outside: Path) -> Iterator[Mutant]:
    """Odd names, links, and what is no file; ``valid`` is a good one, of which copies get odd names."""
    ((name, content),) = list(valid.items())[:1]
    ending = name.partition(".")[2]
    for odd in ("n" * 240, "\x1b[31mred", "-rf", "=cmd|' C calc'!A0", "a\nb", "%s%n", "[bold]x", "<script>", " ", "ü é",
                "a,b", '"', "'; DROP TABLE item; --", "nul", "\t", "x" * 100 + "\u202e"):  # fmt: skip
        yield file("good, with an odd name", f"{odd}.{ending}", content)
    yield file("good, with an odd name", b"\xff\xfe\x80." + ending.encode(), content)
    for empty in ("x.png", "x.dcm", "x.nii.gz", "x.mhd", "x.npz", "x"):
        yield file("no bytes", empty, b"")
    for links in (
        "loop",
        "self",
        "dangling",
        "zero",
        "random",
        "kernel",
        "outside",
        "folder",
        "root of itself",
        "chain",
    ):
        yield Mutant("symbolic link", lambda folder, kind=links: _link(folder, kind, ending, outside))
    yield Mutant("no regular file", lambda folder: os.mkfifo(folder / f"fifo.{ending}"))
    yield Mutant("no regular file", lambda folder: _socket(folder / f"socket.{ending}"))
    yield Mutant("no regular file", lambda folder: _folders(folder / f"folder.{ending}"))
    yield Mutant("no regular file", lambda folder: _folders(folder, 60))
    yield Mutant("unreadable", lambda folder: ((folder / f"x.{ending}").write_bytes(content),
                                               (folder / f"x.{ending}").chmod(0)))  # fmt: skip


def _link(folder: Path, kind: str, ending: str, outside: Path) -> None:
    link = folder / f"{kind}.{ending}"
    targets = {"zero": "/dev/zero", "random": "/dev/urandom", "kernel": "/proc/kmsg", "dangling": "nowhere",
               "self": link.name, "outside": outside, "folder": ".", "root of itself": ".."}  # fmt: skip
    if kind == "loop":
        link.symlink_to(f"other.{ending}")
        (folder / f"other.{ending}").symlink_to(link.name)
    elif kind == "chain":
        for number in range(50):  # longer than the kernel follows
            (folder / f"{number}.{ending}").symlink_to(f"{number + 1}.{ending}")
    else:
        link.symlink_to(targets[kind])


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # sockets have short names
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _folders(path: Path, depth: int = 1) -> None:
    for _ in range(depth):
        path /= "d" * 30
    path.mkdir(parents=True)


def companions(header: bytes, values: bytes, key: bytes, outside: Path) -> Iterator[Mutant]:
    """Detached headers (MetaImage, NRRD) that name another file of values than their own."""
    name = "x.mhd" if key.startswith(b"Element") else "x.nhdr"
    for target in ("../../etc/passwd", "/etc/passwd", "/dev/zero", "/dev/stdin", "http://127.0.0.1:9/x", "LIST", "x%03d.raw 1 9 1",
                   "", ".", "..", name, "n" * 300, "fifo.raw", "link.raw", "zero.raw", "secret\0.raw", "..\\x.raw", "~/x.raw",
                   str(outside)):  # fmt: skip
        spoilt = re.sub(key + rb"[^\n]*", lambda _, t=target: key + t.encode(), header)

        def place(folder: Path, spoilt: bytes = spoilt) -> None:
            (folder / name).write_bytes(spoilt)
            os.mkfifo(folder / "fifo.raw")
            (folder / "link.raw").symlink_to(outside)
            (folder / "zero.raw").symlink_to("/dev/zero")

        yield Mutant("header names another file", place)
    for size in (0, 1, len(values) - 1):
        yield files("data of another length", {name: header, "x.raw": values[:size]})
    yield files("data of another length", {name: header, "x.raw": values * 2})
