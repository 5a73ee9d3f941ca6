"""All files below a folder or a prefix of a store."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import as_os_error, is_local, locate


def folder_at(images: str, key: str = "recipe.images") -> Path:
    """The folder or prefix of a store that ``images`` names. Raises UserError if it does not exist."""
    root = resolve_links(locate(images, key))
    with as_os_error(root):
        if not root.is_dir():
            problem = "a file; name the folder that it is in" if root.is_file() else "no such folder"
            raise UserError(f"{key}={images}: {problem}")
    return root


def files_below(root: Path) -> Iterator[Path]:
    """All files at any depth except hidden ones. Follows symbolic links, but enters a folder only once.

    Raises OSError if a folder cannot be listed.
    """
    if not is_local(root):
        yield from (path for path, _ in objects_below(root))
        return

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for folder, folders, files in os.walk(root, onerror=fail, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(files) if not name.startswith("."))


def objects_below(root: Path) -> Iterator[tuple[Path, int]]:
    """All objects of a store below ``root`` except hidden ones, with their sizes in bytes. Raises OSError."""
    with as_os_error(root):
        for folder, folders, files in root.fs.walk(root.path, detail=True, on_error="raise"):  # type: ignore[attr-defined]
            for name in [name for name in folders if name.startswith(".")]:
                del folders[name]
            below = root.joinpath(*PurePosixPath(folder).relative_to(root.path).parts)  # type: ignore[attr-defined]
            for name in sorted(files):
                if name and not name.startswith("."):
                    yield below / name, files[name]["size"]


def resolve_links(path: Path) -> Path:
    """``path`` without symbolic links and ``..``."""
    return Path(os.path.realpath(path)) if is_local(path) else path.resolve()
