"""One checkpoint format for every strategy.

::

    checkpoints/000001200/index.json                    step, state, and of each tensor its part, shape and type
                          part-00000-of-00002.safetensors   one a writer, with its xxh3 in the index
    checkpoints/LATEST, BEST-dir …                       the name of a complete folder

Written to ``000001200.tmp`` while training goes on, then renamed: a folder with a final name is complete. Nothing is
ever unpickled, and reading needs neither a GPU nor the processes that wrote it.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dira_scale.errors import UserError
from dira_scale.files import sync_folder, write_atomic, write_json

FORMAT_VERSION = 1
WRITERS_SECONDS = 600.0  # how long the main writer waits for the others' parts


class DamagedError(UserError):
    """A checkpoint that is cut short, changed or of another format."""


class Checkpointer:
    """Writes checkpoints of ``rank`` of ``world`` writers in a thread, one at a time.

    Every rank gives the same tensors (replicas); each writes its share of the bytes. ``guard`` is called before
    anything takes its final name (the lease).
    """

    def __init__(
        self, folder: Path, keep: int, rank: int, world: int, guard: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self.keep, self.rank, self.world, self.guard = folder, keep, rank, world, guard
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], best: str | None = None) -> None:
        """Copy ``tensors`` now, write them while training goes on. ``best`` names the stage this is the best of.

        ``state`` is JSON. A failure of an earlier write is raised here or in :meth:`wait`.
        """
        self.wait()
        names = share(tensors, self.rank, self.world)
        copies = {name: tensors[name].detach().to("cpu", copy=True).contiguous() for name in names}
        self._thread = threading.Thread(target=self._run, args=(step, copies, state, best), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the last checkpoint is on the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _run(self, step: int, copies: dict[str, Tensor], state: dict[str, Any], best: str | None) -> None:
        try:
            self._write(step, copies, state, best)
        except BaseException as failure:
            self._failure = failure  # raised in the training thread by the next wait()

    def _write(self, step: int, copies: dict[str, Tensor], state: dict[str, Any], best: str | None) -> None:
        name = f"{step:09d}"
        final, temporary = self.folder / name, self.folder / f"{name}.tmp"
        if not final.exists():
            temporary.mkdir(exist_ok=True)
            part = f"part-{self.rank:05d}-of-{self.world:05d}"
            _write_part(temporary / f"{part}.safetensors", copies)
            if self.rank > 0:
                return
            parts = [_await(temporary / f"part-{r:05d}-of-{self.world:05d}.json") for r in range(self.world)]
            index = {"format": FORMAT_VERSION, "step": step, "state": state, "parts": parts}
            write_json(temporary / "index.json", index)
            self.guard()
            temporary.replace(final)
            sync_folder(self.folder)
        elif self.rank > 0:
            return
        self.guard()
        write_atomic(self.folder / "LATEST", name)
        if best is not None:
            write_atomic(self.folder / f"BEST-{best}", name)
        self._sweep(final)

    def _sweep(self, newest: Path) -> None:
        """Remove all but the newest ``keep`` and the best of each stage."""
        best = {path.read_text() for path in self.folder.glob("BEST-*")}
        for old in complete(self.folder)[: -self.keep]:
            if old.name not in best and old != newest:
                shutil.rmtree(old)


def share(tensors: dict[str, Tensor], rank: int, world: int) -> list[str]:
    """The names that ``rank`` writes: largest first, each to the writer with the fewest bytes so far."""
    load, mine = [0] * world, []
    for name in sorted(tensors, key=lambda n: (-tensors[n].nbytes, n)):
        writer = load.index(min(load))
        load[writer] += tensors[name].nbytes
        if writer == rank:
            mine.append(name)
    return mine


def complete(folder: Path) -> list[Path]:
    """Checkpoints under their final name, oldest first."""
    return sorted(p for p in folder.glob("*") if p.name.isdigit())


def clear(folder: Path, damaged: list[Path]) -> None:
    """Before the first write of a run: remove what a killed writer left half done, set damaged checkpoints aside."""
    for half in folder.glob("*.tmp"):
        shutil.rmtree(half) if half.is_dir() else half.unlink()
    for path in damaged:
        path.rename(path.with_suffix(".damaged"))


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and the state of one checkpoint, checked against its checksums.

    Raises:
        DamagedError: names the file and what is wrong with it.
    """
    try:
        index = json.loads((folder / "index.json").read_text())
    except (OSError, ValueError) as error:
        raise DamagedError(f"{folder / 'index.json'}: cannot be read ({error})") from error
    if index["format"] != FORMAT_VERSION:
        raise DamagedError(f"{folder}: checkpoint format {index['format']}; this version reads {FORMAT_VERSION}")
    tensors: dict[str, Tensor] = {}
    for part in index["parts"]:
        path = folder / part["file"]
        if not path.exists() or path.stat().st_size != part["size"] or checksum(path) != part["xxh3"]:
            raise DamagedError(f"{path}: missing, cut short or changed since it was written")
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise DamagedError(f"{path}: {error}") from error
    return tensors, index["state"] | {"step": index["step"]}


def load_latest(run: Path) -> tuple[tuple[dict[str, Tensor], dict[str, Any]] | None, dict[Path, str]]:
    """The newest whole checkpoint of a run, None where there is none; and damaged ones passed over, with the reason.

    Raises:
        DamagedError: there are checkpoints, and none is whole.
    """
    refused: dict[Path, str] = {}
    for folder in reversed(complete(run / "checkpoints")):
        try:
            return load(folder), refused
        except DamagedError as error:
            refused[folder] = str(error)
    if refused:
        raise DamagedError("no checkpoint is whole: " + "; ".join(refused.values()))
    return None, {}


def latest(run: Path) -> Path:
    """Folder of the run's newest checkpoint.

    Raises:
        UserError: the run has none.
    """
    return _named(run, "LATEST")


def best(run: Path, stage: str) -> Path:
    """Folder of the stage's checkpoint with the lowest validation loss.

    Raises:
        UserError: the run has none of that stage (those it has are named).
    """
    return _named(run, f"BEST-{stage}")


def stages_with_best(run: Path) -> list[str]:
    """Stages that have a best checkpoint, in the order they were trained."""
    found = [(path.read_text(), path.name.removeprefix("BEST-")) for path in (run / "checkpoints").glob("BEST-*")]
    return [stage for _, stage in sorted(found)]


def checksum(path: Path) -> str:
    """xxh3 (128 bits) of a file, in hexadecimal digits."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _named(run: Path, pointer: str) -> Path:
    path = run / "checkpoints" / pointer
    if not path.exists():
        have = sorted(p.name for p in path.parent.glob("*") if p.name == "LATEST" or p.name.startswith("BEST-"))
        raise UserError(f"{path} does not exist; this run has {', '.join(have) or 'no checkpoint yet'}")
    return path.parent / path.read_text()


def _write_part(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, path)
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    row = {"file": path.name, "size": path.stat().st_size, "xxh3": checksum(path), "tensors": sorted(tensors)}
    write_json(path.with_suffix(".json"), row)


def _await(path: Path) -> dict[str, Any]:
    deadline = time.monotonic() + WRITERS_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"{path} did not appear within {WRITERS_SECONDS:.0f} s: a writer is gone or the disk is not shared"
            )
        time.sleep(0.02)
    row: dict[str, Any] = json.loads(path.read_text())
    return row
