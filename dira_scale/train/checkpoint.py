"""One checkpoint format for every strategy.

::

    checkpoints/000001200/index.json                    step, state, lease, and each part's tensors, size and xxh3
                          part-00000-of-00002.safetensors   one a writer
    checkpoints/LATEST, BEST-dir …                       the name of a complete folder

Written to ``000001200.LEASE.tmp`` while training goes on, then renamed: a folder with a final name is complete. The
pointers only repeat what the newest state says, and are put right when a run goes on. Nothing is ever unpickled, and
reading needs neither a GPU nor the processes that wrote it.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dira_scale.errors import UserError
from dira_scale.files import sync_folder, write_atomic, write_json

FORMAT_VERSION = 1
WRITERS_SECONDS = 600.0  # how long the main writer waits for the others' parts


@dataclass(frozen=True)
class Piece:
    """A tensor of a checkpoint to come, of which each process may hold a part only."""

    shape: torch.Size
    dtype: torch.dtype
    whole: Callable[[], Tensor]  # collective: every process calls it, for all pieces in the same order

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


def replicated(tensors: Mapping[str, Tensor]) -> dict[str, Piece]:
    """Pieces of tensors that every process has whole."""
    return {name: Piece(t.shape, t.dtype, lambda t=t: t) for name, t in tensors.items()}  # type: ignore[misc]


class DamagedError(UserError):
    """A checkpoint that is cut short, changed or of another format."""


class Checkpointer:
    """Writes checkpoints of ``rank`` of ``world`` writers in a thread, one at a time.

    Every rank gives pieces of the same names and sizes; each writes its share of the bytes. ``guard`` is called before
    anything takes its final name; ``lease`` keeps the unfinished folders of two holders apart.
    """

    def __init__(
        self, folder: Path, keep: int, rank: int, world: int, lease: int = 1, guard: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self.keep, self.rank, self.world, self.lease, self.guard = folder, keep, rank, world, lease, guard
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def save(self, step: int, pieces: dict[str, Piece], state: dict[str, Any], best: dict[str, int]) -> None:
        """Copy this rank's share of ``pieces`` now, write it while training goes on. Collective.

        ``state`` is JSON; ``best`` is the step of each stage's best checkpoint. A failure of an earlier write is
        raised here or in :meth:`wait`.
        """
        self.wait()
        mine, copies = set(share(pieces, self.rank, self.world)), {}
        for name in sorted(pieces):
            tensor = pieces[name].whole()
            if name in mine:
                copies[name] = tensor.detach().to("cpu", copy=True).contiguous()
        state, best = json.loads(json.dumps(state)), dict(best)  # training goes on changing them
        self._thread = threading.Thread(target=self._run, args=(step, copies, state, best), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the last checkpoint is on the disk."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def settle(self, seconds: float = 60.0) -> None:
        """Give a write that is under way the time to finish: the run ends, and this may be its newest checkpoint."""
        if self._thread is not None:
            self._thread.join(seconds)

    def point(self, step: int, best: dict[str, int]) -> None:
        """Make LATEST and BEST what the state of ``step`` says; a pointer to what is no longer there goes."""
        self.guard()
        for stale in self.folder.glob("BEST-*"):
            if not (self.folder / stale.read_text()).is_dir():
                stale.unlink()
        pointers = {"LATEST": step} | {f"BEST-{stage}": at for stage, at in best.items()}
        for pointer, at in pointers.items():
            path, name = self.folder / pointer, _name(at)
            said = path.read_text() if path.exists() else ""
            if said != name and (self.folder / name).is_dir():
                write_atomic(path, name)

    def _run(self, step: int, copies: dict[str, Tensor], state: dict[str, Any], best: dict[str, int]) -> None:
        try:
            self._write(step, copies, state, best)
        except BaseException as failure:
            self._failure = failure  # raised in the training thread by the next wait()

    def _write(self, step: int, copies: dict[str, Tensor], state: dict[str, Any], best: dict[str, int]) -> None:
        final = self.folder / _name(step)
        if not final.exists():
            temporary = self.folder / f"{_name(step)}.{self.lease}.tmp"
            temporary.mkdir(exist_ok=True)
            _write_part(temporary / f"part-{self.rank:05d}-of-{self.world:05d}.safetensors", copies)
        if self.rank > 0:
            return
        if not final.exists():
            parts = [_await(temporary / f"part-{r:05d}-of-{self.world:05d}.json") for r in range(self.world)]
            index = {"format": FORMAT_VERSION, "step": step, "lease": self.lease, "state": state, "parts": parts}
            write_json(temporary / "index.json", index)
            self.guard()
            temporary.replace(final)
            sync_folder(self.folder)
        self.point(step, best)
        self._sweep({_name(at) for at in best.values()})

    def _sweep(self, best: set[str]) -> None:
        """Remove all but the newest ``keep`` and the best of each stage."""
        for old in complete(self.folder)[: -self.keep]:
            if old.name not in best:
                shutil.rmtree(old)


def share(pieces: Mapping[str, Piece], rank: int, world: int) -> list[str]:
    """The names that ``rank`` writes: largest first, each to the writer with the fewest bytes so far."""
    load, mine = [0] * world, []
    for name in sorted(pieces, key=lambda n: (-pieces[n].nbytes, n)):
        writer = load.index(min(load))
        load[writer] += pieces[name].nbytes
        if writer == rank:
            mine.append(name)
    return mine


def complete(folder: Path) -> list[Path]:
    """Checkpoints under their final name, oldest first."""
    return sorted(p for p in folder.glob("*") if p.name.isdigit())


def clear(folder: Path, damaged: Iterable[str]) -> None:
    """Before the first write of a run: remove what a killed writer left half done, set damaged checkpoints aside."""
    for half in folder.glob("*.tmp"):
        shutil.rmtree(half) if half.is_dir() else half.unlink()
    for name in damaged:
        aside = next(a for i in count() if not (a := folder / f"{name}.damaged{i or ''}").exists())
        (folder / name).rename(aside)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and the state of one checkpoint, checked against its checksums.

    Raises:
        DamagedError: names the file and what is wrong with it.
    """
    index = verify(folder)
    tensors: dict[str, Tensor] = {}
    for part in index["parts"]:
        try:
            tensors |= load_file(folder / part["file"])
        except SafetensorError as error:
            raise DamagedError(f"{folder / part['file']}: {error}") from error
    return tensors, index["state"] | {"step": index["step"]}


def verify(folder: Path) -> dict[str, Any]:
    """The index of a whole checkpoint.

    Raises:
        DamagedError: as :func:`load`.
    """
    try:
        index: dict[str, Any] = json.loads((folder / "index.json").read_text())
        version, _, parts = index["format"], (index["step"], index["state"]), index["parts"]
        expected = [(folder / part["file"], part["size"], part["xxh3"]) for part in parts]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder / 'index.json'}: cannot be read ({type(error).__name__}: {error})") from error
    if version != FORMAT_VERSION:
        raise DamagedError(f"{folder}: checkpoint format {version}; this version reads {FORMAT_VERSION}")
    for path, size, xxh3 in expected:
        if not path.exists() or path.stat().st_size != size or checksum(path) != xxh3:
            raise DamagedError(f"{path}: missing, cut short or changed since it was written")
    return index


def find_latest(run: Path) -> tuple[str | None, dict[str, str]]:
    """Name of the newest whole checkpoint, None where there is none; and damaged ones passed over, with the reason.

    Raises:
        DamagedError: there are checkpoints, and none is whole.
    """
    refused: dict[str, str] = {}
    for folder in reversed(complete(run / "checkpoints")):
        try:
            verify(folder)
            return folder.name, refused
        except DamagedError as error:
            refused[folder.name] = str(error)
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


def _name(step: int) -> str:
    return f"{step:09d}"


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
