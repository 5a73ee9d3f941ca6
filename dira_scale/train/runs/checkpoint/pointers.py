"""The checkpoints of a run, and pointers to the newest and the best: the files LATEST and BEST-STAGE."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dira_scale.base.errors import UserError
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.store import size_of
from dira_scale.train.runs.checkpoint.folder import ABSENT, as_user_error, folder_name, read_file
from dira_scale.train.runs.complete import STEP, complete, find_folder

LATEST, BEST = "LATEST", "BEST-"  # file names of the pointers; a stage's name follows the latter
LONGEST = 100  # bytes of a pointer


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint on the disk or in the store."""

    step: int
    size: int  # bytes
    marks: tuple[str, ...]  # "latest", "best of dir" …


def latest(run: Path) -> Path:
    """Folder of the newest checkpoint of the run in folder ``run``. Raises UserError if the run has none."""
    return _named(run, LATEST)


def best(run: Path, stage: str) -> Path:
    """Folder of the stage's checkpoint with the lowest validation loss.

    Raises UserError, which names those that it has, if the run has none of that stage.
    """
    return _named(run, f"{BEST}{stage}")


def stages_with_best(run: Path) -> list[str]:
    """Stages that have a best checkpoint, in the order in which they were trained."""
    folder = find_folder(run)
    with as_user_error(folder):
        pointers = _pointers(folder)
    names = sorted(pointers, key=lambda name: (pointers[name], name))
    return [name.removeprefix(BEST) for name in names if name != LATEST]


def stored_checkpoints(run: Path) -> list[StoredCheckpoint]:
    """The run's checkpoints, oldest first. Raises UserError if the disk or the store does not answer."""
    folder = find_folder(run)
    with as_user_error(folder):
        marks: dict[str, list[str]] = {}
        for pointer, name in sorted(_pointers(folder).items()):
            marks.setdefault(name, []).append(
                "latest" if pointer == LATEST else f"best of {pointer.removeprefix(BEST)}"
            )
        return [
            StoredCheckpoint(int(path.name), size_of(path), tuple(marks.get(path.name, ())))
            for path in complete(folder)
        ]


def best_checkpoints(folder: Path) -> set[str]:
    """Names of the checkpoints that are the best of a stage."""
    return {name for pointer, name in _pointers(folder).items() if pointer != LATEST}


def update_pointers(folder: Path, step: int, best: dict[str, int], check: Callable[[], None]) -> None:
    """Set LATEST to ``step`` and BEST to the steps in ``best``; remove pointers to checkpoints that are gone.

    ``best`` is the step of each stage's best checkpoint; ``check`` raises if nothing may be written any more.
    """
    complete_names, pointers = {path.name for path in complete(folder)}, _pointers(folder)
    for pointer, name in pointers.items():
        if pointer != LATEST and name not in complete_names:
            check()
            (folder / pointer).unlink()
    for pointer, at in ({LATEST: step} | {f"{BEST}{stage}": at for stage, at in best.items()}).items():
        name = folder_name(at)
        if pointers.get(pointer) != name and name in complete_names:
            write_atomic(folder / pointer, name, check)


def _named(run: Path, pointer: str) -> Path:
    folder = find_folder(run)
    with as_user_error(folder):
        pointers = _pointers(folder)
    if pointer not in pointers:
        have = ", ".join(sorted(pointers)) or "no checkpoint yet: run its command again, which continues"
        raise UserError(f"{folder / pointer} does not exist; this run has {have}")
    if not STEP.fullmatch(name := pointers[pointer]):
        raise UserError(f"{folder / pointer} names no checkpoint: run its command again, which corrects it")
    return folder / name


def _pointers(folder: Path) -> dict[str, str]:
    pointers = {}
    for file in folder.iterdir() if folder.exists() else []:
        if file.name == LATEST or file.name.startswith(BEST):
            try:
                pointers[file.name] = read_file(file, LONGEST).decode(errors="replace").strip()
            except (*ABSENT, ValueError):
                pointers[file.name] = ""  # what is no small file names no checkpoint
    return pointers
