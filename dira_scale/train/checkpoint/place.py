"""Where a run's checkpoints lie: a folder of this machine, or a prefix of an object store by fsspec.

Both are ``pathlib.Path`` to everyone else (:mod:`dira_scale.store`). They differ in how a checkpoint comes to be:
folders are renamed, objects cannot be, so there the index, written last, makes the checkpoint.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from dira_scale.errors import UserError
from dira_scale.files import sync_folder, write_atomic
from dira_scale.store import is_local, locate, refusals

INDEX = "index.json"
ABSENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def place(run: Path, folder: str | None) -> Path:
    """The folder of a run's checkpoints: ``run/checkpoints``, or what ``checkpoint.folder`` says (a path or a URL).

    Raises:
        UserError: no such kind of store, or a package for it is missing.
    """
    return run / "checkpoints" if folder is None else locate(folder, "checkpoint.folder")


def place_of(run: Path) -> Path:
    """Where the run in folder ``run`` has its checkpoints, by its own configuration.

    Raises:
        UserError: as :func:`place`.
    """
    path = run / "config.yaml"
    config: dict[str, Any] = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return place(run, config.get("checkpoint", {}).get("folder"))


def make(folder: Path) -> None:
    """Make the folder of checkpoints, but no bucket: a mistyped one would be made and paid for."""
    folder.mkdir(parents=not folder.drive, exist_ok=True)


@contextmanager
def reachable(folder: Path) -> Iterator[None]:
    """``UserError`` where what is done inside with the folder of checkpoints fails."""
    try:
        with refusals(folder):
            yield
    except OSError as error:
        raise UserError(f"checkpoint.folder={folder} cannot be used: {error}") from error


def complete(folder: Path) -> list[Path]:
    """Checkpoints that are whole or were once, oldest first."""
    return [path for path in _numbered(folder) if is_local(path) or (path / INDEX).exists()]


def put(path: Path, content: str | bytes) -> None:
    """Write a file; a reader sees all of it or nothing."""
    if is_local(path):
        return write_atomic(path, content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def fetch(path: Path) -> bytes:
    """A file's content.

    Raises:
        FileNotFoundError, IsADirectoryError, NotADirectoryError: the file is not there.
        UserError: the disk or the store does not give it, which says nothing of the file.
    """
    try:
        with refusals(path):
            return path.read_bytes()
    except ABSENT:
        raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be read now ({type(error).__name__}: {error}): mend access, disk or network, or try again"
        ) from error


def draft(folder: Path, name: str, lease: int) -> Path:
    """Where the checkpoint ``name`` is written until it is whole."""
    return folder / f"{name}.{lease}.tmp" if is_local(folder) else folder / name


def publish(written: Path, final: Path, index: str, guard: Callable[[], None]) -> None:
    """Make ``written``, which has all parts, the checkpoint ``final``, unless ``guard`` raises at the last moment."""
    if is_local(final) and final.exists():
        return remove(written)  # the same step of the same run
    put(written / INDEX, index)
    if is_local(final):
        guard()
        written.replace(final)
        sync_folder(final.parent)


def remove(folder: Path) -> None:
    """Remove a checkpoint; one that is removed by half is none."""
    if is_local(folder):
        doomed = folder.with_name(f"{folder.name}.old.tmp")
        folder.replace(doomed)
        return shutil.rmtree(doomed)
    (folder / INDEX).unlink(missing_ok=True)
    folder.rmdir(recursive=True)  # type: ignore[call-arg]


def clear(folder: Path, damaged: Iterable[str]) -> None:
    """Before the first write of a run: remove what a killed writer left half done, set damaged checkpoints aside.

    Raises:
        UserError: the disk or the store does not let it.
    """
    with reachable(folder):
        whole = {path.name for path in complete(folder)}
        for half in [*folder.glob("*.tmp"), *(path for path in _numbered(folder) if path.name not in whole)]:
            if is_local(half):
                shutil.rmtree(half) if half.is_dir() else half.unlink()
            else:
                remove(half)
        for name in damaged:
            aside = next(a for i in count() if not (a := folder / f"{name}.damaged{i or ''}").exists())
            _move(folder / name, aside)


def _numbered(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return sorted((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: path.name)


def _move(folder: Path, target: Path) -> None:
    if is_local(folder):
        folder.rename(target)
        return
    target.mkdir(exist_ok=True)
    for file in list(folder.iterdir()):
        put(target / file.name, file.read_bytes())
    remove(folder)
