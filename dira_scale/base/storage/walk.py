"""All files below a folder or a prefix of a store, or one task's share of them."""

import os
import stat
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import xxhash

from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import as_os_error, is_local, locate

FOLDERS = 8  # for each share, at least, so that their sizes are alike
DEEPEST = 8  # levels that every task may list


class Met(NamedTuple):
    """A file that a walk meets at ``path``."""

    path: Path
    file: Path  # without links
    size: int | None = None  # bytes, of a store's object


class WalkShare:
    """The files below ``root`` that are one of ``total`` tasks': folders at ``depth`` by a hash of their path below it,
    files above them by one of their own. So that every task finds enough folders to divide, it lists all above."""

    def __init__(self, root: Path, number: int, total: int):
        self.number, self.total, self.depth = number, total, 0
        level = [root]
        while level and len(level) < FOLDERS * total and self.depth < DEEPEST:
            level = [
                folder / each.name for folder in level for each in _entries(folder) if each.folder and not each.link
            ]
            self.depth += 1

    def has(self, name: str) -> bool:
        """Return whether a folder or file at the path ``name`` below the root is this task's."""
        return xxhash.xxh3_64_intdigest(os.fsencode(name)) % self.total == self.number - 1


def folder_at(images: str, key: str = "recipe.images") -> Path:
    """The folder or prefix of a store that ``images`` names. Raises UserError if it does not exist."""
    root = resolve_links(locate(images, key))
    with as_os_error(root):
        if not root.is_dir():
            problem = "a file; name the folder that it is in" if root.is_file() else "no such folder"
            raise UserError(f"{key}={images}: {problem}")
    return root


def files_below(root: Path) -> Iterator[Path]:
    """The path of each file that :func:`walked` meets."""
    return (met.path for met in walked(root))


def walked(root: Path, share: WalkShare | None = None) -> Iterator[Met]:
    """All files at any depth except hidden ones; of each folder its files, then its folders, sorted.

    Follows links, but to what it meets itself, and enters a folder only once: only what a link leads to outside of
    ``root``, or to what is hidden, can be met twice. Raises OSError if a folder cannot be listed.
    """
    home, seen = resolve_links(root), set[tuple[int, int]]()
    waiting = [("", root, root if root == home else home)]
    while waiting:
        name, path, file = waiting.pop()
        if is_local(path):
            status = path.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        folders, depth = list[tuple[str, Path, Path]](), name.count("/") + bool(name)
        for entry in _entries(path):
            below = f"{name}/{entry.name}" if name else entry.name
            at = path / entry.name
            real = resolve_links(at) if entry.link else at if path is file else file / entry.name
            if entry.link and is_met(real, home):
                continue
            if entry.folder:
                if not share or depth + 1 != share.depth or share.has(below):
                    folders.append((below, at, real))
            elif not share or depth >= share.depth or share.has(below):
                yield Met(at, real, entry.size)
        waiting += reversed(folders)


def in_order(path: str) -> list[tuple[bool, str]]:
    """The key of a path below a root, with / between folders, that sorts as :func:`walked` does."""
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]


class _Entry(NamedTuple):
    name: str
    folder: bool
    link: bool
    size: int | None


def _entries(folder: Path) -> list[_Entry]:
    """What is not hidden in a folder, sorted by name. Asks nothing of the disk about files that are no links."""
    with as_os_error(folder):
        if is_local(folder):
            with os.scandir(folder) as entries:
                found = [_Entry(e.name, _is_folder(e), e.is_symlink(), None) for e in entries if e.name[0] != "."]
        else:
            place = folder.path.rstrip("/")  # type: ignore[attr-defined]
            infos = {info["name"].rstrip("/"): info for info in folder.fs.ls(place, detail=True)}  # type: ignore[attr-defined]
            named = ((at.rpartition("/")[2], info) for at, info in infos.items() if at != place)  # not its own marker
            found = [_Entry(n, i["type"] == "directory", False, i["size"]) for n, i in named if n and n[0] != "."]
    return sorted(found)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def is_met(file: Path, root: Path) -> bool:
    """Return whether a walk of ``root`` meets the file or folder at its own place."""
    inside = file.is_relative_to(root) and not any(part[0] == "." for part in file.relative_to(root).parts)
    return inside and os.path.exists(file)  # noqa: PTH110 (Path's raises for long names)


def resolve_links(path: Path) -> Path:
    """``path`` without symbolic links and ``..``."""
    return Path(os.path.realpath(path)) if is_local(path) else path.resolve()


class LinkResolver:
    """:func:`resolve_links` of many paths: of each folder once, of files only if they are links.

    Attributes:
        elsewhere: folders outside of ``root``, and files for all of one folder, that links lead to, by these links.
    """

    def __init__(self, root: Path) -> None:
        self._root, self.elsewhere, self._led = root, list[Path](), set[Path]()
        self._folder = lru_cache(2**16)(os.path.realpath)

    def resolve(self, path: Path) -> Path:
        """``path`` without symbolic links and ``..``."""
        if not is_local(path) or path.name in ("", ".."):
            return resolve_links(path)
        file = Path(self._folder(path.parent), path.name)
        try:
            if stat.S_ISLNK(file.lstat().st_mode):
                file = resolve_links(file)
        except OSError:  # it is not there, or its name is too long
            pass
        if file != path and not file.is_relative_to(self._root):
            self.note(path, file)
        return file

    def note(self, path: Path, file: Path) -> None:
        """Take up that ``path`` leads out of the root, to ``file``."""
        if is_local(path) and file.parent / "*" not in self._led and self._led.isdisjoint(file.parents):
            link = next((folder for folder in path.parents if folder.is_symlink()), path)
            self._led.add(file.parent / "*" if link is path else resolve_links(link))
            self.elsewhere.append(link)
