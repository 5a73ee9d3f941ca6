"""Reading checkpoints, by name or the newest; only undamaged ones."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict, TypeVar

from dira_scale.base.arguments import AtLeast
from dira_scale.base.errors import UserError
from dira_scale.train.distributed.control import broadcast_from_main, gather_objects
from dira_scale.train.runs.checkpoint.folder import ABSENT, as_user_error, read_file
from dira_scale.train.runs.checkpoint.slices import DTYPES, Entry
from dira_scale.train.runs.checkpoint.stored import CHUNK, DamagedError, PartFile, PartFiles, StoredTensors, checksum
from dira_scale.train.runs.complete import INDEX, complete
from dira_scale.train.runs.files import MOST_JSON
from dira_scale.train.runs.shape import STEP, shaped

T = TypeVar("T")
FORMAT_VERSION = 3
WHOLE = 2  # the format before: whole tensors, and one checksum a file


class CheckpointPart(TypedDict):
    """A file of tensors, in the checkpoint's folder."""

    file: str
    size: Annotated[int, AtLeast(0)]
    xxh3: str | list[str]  # of each chunk; in the format before, of the file


class CheckpointIndex(TypedDict):
    """``index.json``. What the state has depends on the task."""

    format: int
    step: STEP
    state: dict[str, Any]
    parts: list[CheckpointPart]
    tensors: NotRequired[dict[str, tuple[str, list[Annotated[int, AtLeast(0)]]]]]  # type and shape


class Newest(NamedTuple):
    """The newest intact checkpoint, its tensors and its state."""

    name: str
    tensors: StoredTensors
    state: dict[str, Any]


def load(folder: Path) -> tuple[StoredTensors, dict[str, Any]]:
    """Tensors by name, which are read when they are asked for, and the state of a checkpoint.

    Raises, also where a tensor is read:
        DamagedError: names the file and what is wrong with it.
        UserError: the disk or the store does not answer, or access is denied.
    """
    index = _index(folder)
    parts = PartFiles(_parts(folder, index))
    headers = [parts.header(number) for number in range(len(parts.parts))]
    return StoredTensors(folder, parts, headers, _about(index)), index["state"] | {"step": index["step"]}


def find_latest(
    folder: Path, rank: int = 0, ranks: int = 1, on_all: Callable[..., Any] = lambda read: read()
) -> tuple[Newest | None, dict[str, str]]:
    """The newest intact checkpoint (None: there is none), and why each newer one was refused. Collective.

    The main process reads the index, and each one a share of all bytes, by which damage is found; what it needs of
    the tensors it reads later.

    Args:
        on_all: calls its argument on all processes, and waits for all of them (``Checkpointer.read_on_all``).

    Raises:
        DamagedError: there are checkpoints, but none is intact.
        UserError: the disk or the store does not answer, or access is denied.
    """
    refused: dict[str, str] = {}

    def candidates() -> list[str]:
        with as_user_error(folder):
            return [path.name for path in reversed(complete(folder))]

    for name in broadcast_from_main(on_all(lambda: [] if rank else candidates())):
        read = partial(_caught, _index, folder / name)
        index, why = broadcast_from_main(on_all(lambda read=read: (None, "") if rank else read()))
        if not why:
            files, why = _caught(_parts, folder / name, index)
        if not why:
            parts = PartFiles(files or [])
            examined = gather_objects(on_all(partial(_caught, examine, parts, rank, ranks)))
            why = next((reason for _, reason in examined if reason), "")
        if not why:
            headers = [examined[number % ranks][0][number // ranks] for number in range(len(parts.parts))]
            tensors, why = _caught(StoredTensors, folder / name, parts, headers, _about(index))
        if not why:
            assert tensors is not None
            return Newest(name, tensors, index["state"] | {"step": index["step"]}), refused
        refused[name] = why
    if refused:
        raise DamagedError("no checkpoint is intact: " + "; ".join(refused.values()))
    return None, {}


def sealed(index: dict[str, Any]) -> str:
    """``index`` as JSON text that includes its own checksum."""
    return json.dumps(index | {"xxh3": _seal(index)}, indent=1) + "\n"


def _caught(read: Callable[..., T], *of: Any) -> tuple[T | None, str]:
    """Return ``read(*of)``, and how it is damaged; empty where it is not."""
    try:
        return read(*of), ""
    except DamagedError as error:
        return None, str(error)


def examine(parts: PartFiles, rank: int, ranks: int) -> list[list[Entry]]:
    parts.verify(rank, ranks)
    return [parts.header(number) for number in range(rank, len(parts.parts), ranks)]


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    try:
        index: dict[str, Any] = json.loads(read_file(path, MOST_JSON))
    except (*ABSENT, ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    try:
        shaped(CheckpointIndex, index, "take another checkpoint")
    except UserError as error:
        raise DamagedError(f"{path}: {error}") from error
    version, seal = index["format"], index.pop("xxh3", None)
    if version not in (WHOLE, FORMAT_VERSION):
        raise DamagedError(
            f"{folder}: checkpoint format {version}, this dira_scale reads {WHOLE} and {FORMAT_VERSION}: use the one "
            "that wrote it"
        )
    if seal != _seal(index):
        raise DamagedError(f"{path}: changed since it was written")
    return index


def _parts(folder: Path, index: dict[str, Any]) -> list[PartFile]:
    parts = []
    for part in index["parts"]:
        name, size, sums = part["file"], part["size"], part["xxh3"]
        chunk = CHUNK if isinstance(sums, list) else max(1, size)
        if PurePath(name).name != name:
            raise DamagedError(f"{folder / INDEX}: names {name}, which is no file in its folder")
        parts.append(PartFile(folder / name, size, sums if isinstance(sums, list) else [sums], chunk))
        if len(parts[-1].sums) != -(-size // chunk):
            raise DamagedError(f"{folder / INDEX}: has not one checksum for each chunk of {name}")
    return parts


def _about(index: dict[str, Any]) -> dict[str, Any] | None:
    """Type and shape of each tensor, where the index has them."""
    if index["format"] == WHOLE:
        return None
    return {name: (DTYPES.get(dtype), shape) for name, (dtype, shape) in index.get("tensors", {}).items()}


def _seal(index: dict[str, Any]) -> str:
    return checksum(json.dumps(index, sort_keys=True).encode())
