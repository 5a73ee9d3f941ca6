"""A command writes, replaces and deletes only its own names, in a folder that is new, empty or marked as its own.

Every command calls :func:`own` for the folder of its output, or :func:`own_file` for a single file, before it writes.
The mark comes first, so a folder that a killed call has left is still its own.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import machine_tag, write_json
from dira_scale.base.storage.store import is_local

MARK = ".dira_scale.json"
TORN = re.compile(r"\..+\.([0-9a-f]{8})\.([0-9]+)\.[0-9]+\.tmp")  # as storage.atomic names what it has not finished
DAY = 86_400.0  # after which an unfinished file of another machine is nobody's any more
STAMP = 65_536  # bytes at a file's beginning in which its stamp is looked for
GENERATOR = '<meta name="generator" content="dira_scale">'  # the stamp of a page
SWEEP_PAGE = '<meta name="generator" content="dira_scale sweep">'  # of a page with tables beside it
REJECTED = ("file", "stage", "reason")  # the header of the table of rejected files' names, and its stamp


def own(folder: Path, kind: str, key: str) -> None:
    """Mark ``folder`` as holding ``kind`` ("run", "predictions" …), made if absent; remove what a killed call of its
    owner left unfinished there.

    Raises:
        UserError: as :func:`check_own`.
        OSError: it cannot be read or written.
    """
    if check_own(folder, kind, key):
        if is_local(folder):
            for where, _, names in os.walk(folder):
                for name in names:
                    if (parts := TORN.fullmatch(name)) and _is_dead(Path(where, name), *parts.groups()):
                        Path(where, name).unlink(missing_ok=True)
        return
    if is_local(folder):  # a store has no folders, and a mistyped bucket would cost money
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MARK, {"made_by": "dira_scale", "kind": kind})


def check_own(folder: Path, kind: str, key: str, within: Path | None = None) -> bool:
    """Return whether ``folder`` has the mark of ``kind``; else it is empty or absent. Writes nothing.

    Args:
        within: a run whose folder it is, which may be a stranger's.

    Raises:
        UserError: it holds anything else, or leads out of ``within``, or something in it is a link that leaves it; the
            message names ``key``.
        OSError: it cannot be read.
    """
    named = folder
    if is_local(folder):
        folder = folder.resolve()  # new/../mine is there only once new is
    if within and not is_inside(folder, within):
        raise UserError(f"{named} is a link that leaves {within}: remove it, or name another folder, {key}=…")
    if is_local(folder) and folder.exists() and not folder.is_dir():
        raise UserError(f"{key}={named} is a file: name a folder")
    names = sorted(path.name for path in folder.iterdir() if not TORN.fullmatch(path.name)) if folder.exists() else []
    if MARK in names:
        try:
            held = str(json.loads((folder / MARK).read_bytes()[:STAMP])["kind"])[:40]
        except (ValueError, KeyError, TypeError):
            held = "an unknown kind"
        if held != kind:
            raise UserError(f"{key}={named} holds what another command wrote ({held}, not {kind}): name another folder")
        for link in _links(folder) if is_local(folder) else ():  # it would be written to and deleted
            if not is_inside(link, folder):
                raise UserError(f"{key}={folder}: {link} is a link that leaves this folder: remove the link")
        return True
    if names:
        raise UserError(
            f"{key}={named} holds files that this command has not written, such as {names[0]}: name an empty or a new "
            "folder"
        )
    return False


def own_file(path: Path, key: str, stamp: str = GENERATOR, beside: tuple[Path, ...] = ()) -> None:
    """Raise UserError where ``path`` is a file without the ``stamp`` that this command writes into its own, or one of
    the files that it writes ``beside`` a new one exists."""
    if path.is_dir():
        raise UserError(f"{key}={path} is a folder: name a file in it, or another")
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            if stamp.encode() in file.read(STAMP):
                return
    if taken := next((other for other in (path, *beside) if other.exists() or other.is_symlink()), None):
        raise UserError(f"{taken} would be replaced, and this command has not written it: move it, or change {key}=…")


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether ``path``, after links, is in ``folder``: a stranger's run may link to any file."""
    return path.resolve().is_relative_to(folder.resolve())


def _links(folder: Path) -> Iterator[Path]:
    """Yield the links in ``folder`` and in the folders below it."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:  # another process may remove it meanwhile
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir():
                yield from _links(Path(entry.path))


def _is_dead(path: Path, machine: str, pid: str) -> bool:
    if machine == machine_tag():
        return not psutil.pid_exists(int(pid))
    try:
        return time.time() - path.stat().st_mtime > DAY
    except FileNotFoundError:
        return False
