"""Reading checkpoints, by name or the newest; only undamaged ones."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Annotated, Any, TypedDict

import xxhash
from safetensors import SafetensorError
from safetensors.torch import load as parse
from torch import Tensor

from dira_scale.base.arguments import AtLeast
from dira_scale.base.errors import UserError
from dira_scale.train.runs.checkpoint.folder import ABSENT, as_user_error, read_file
from dira_scale.train.runs.complete import INDEX, complete
from dira_scale.train.runs.files import MOST_JSON
from dira_scale.train.runs.shape import STEP, shaped

FORMAT_VERSION = 2


class CheckpointPart(TypedDict):
    """A file of tensors, in the checkpoint's folder."""

    file: str
    size: Annotated[int, AtLeast(0)]
    xxh3: str


class CheckpointIndex(TypedDict):
    """``index.json``. What the state has depends on the task."""

    format: int
    step: STEP
    state: dict[str, Any]
    parts: list[CheckpointPart]


class DamagedError(UserError):
    """A checkpoint is truncated, changed or of another format."""


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and the state of a checkpoint, with checksums verified.

    Raises:
        DamagedError: names the file and what is wrong with it.
        UserError: the disk or the store does not answer, or access is denied.
    """
    index = _index(folder)
    tensors: dict[str, Tensor] = {}
    for path, content in _parts(folder, index):
        try:
            tensors |= parse(content)
        except SafetensorError as error:
            raise DamagedError(f"{path}: {error}") from error
    return tensors, index["state"] | {"step": index["step"]}


def verify(folder: Path) -> None:
    """Read all of a checkpoint and verify its checksums. Raises as :func:`load`."""
    for _ in _parts(folder, _index(folder)):
        pass


def find_latest(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Name of the newest intact checkpoint (None: there is none), and why each newer one was refused.

    Raises:
        DamagedError: there are checkpoints, but none is intact.
        UserError: the disk or the store does not answer, or access is denied.
    """
    refused: dict[str, str] = {}
    with as_user_error(folder):
        candidates = complete(folder)
    for candidate in reversed(candidates):
        try:
            verify(candidate)
            return candidate.name, refused
        except DamagedError as error:
            refused[candidate.name] = str(error)
    if refused:
        raise DamagedError("no checkpoint is intact: " + "; ".join(refused.values()))
    return None, {}


def checksum(content: bytes) -> str:
    """xxh3 (128 bits), in hexadecimal digits."""
    return str(xxhash.xxh3_128(content).hexdigest())


def sealed(index: dict[str, Any]) -> str:
    """``index`` as JSON text that includes its own checksum."""
    return json.dumps(index | {"xxh3": _seal(index)}, indent=1) + "\n"


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
    if version != FORMAT_VERSION:
        raise DamagedError(
            f"{folder}: checkpoint format {version}, this dira_scale reads {FORMAT_VERSION}: use the one that wrote it"
        )
    if seal != _seal(index):
        raise DamagedError(f"{path}: changed since it was written")
    return index


def _parts(folder: Path, index: dict[str, Any]) -> Iterator[tuple[Path, bytes]]:
    """Path and content of every part, one after the other."""
    for part in index["parts"]:
        path, name = folder / part["file"], part["file"]
        if PurePath(name).name != name:
            raise DamagedError(f"{folder / INDEX}: names {name}, which is no file in its folder")
        try:
            content = read_file(path, part["size"])
        except (*ABSENT, ValueError) as error:
            raise DamagedError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
        if len(content) != part["size"] or checksum(content) != part["xxh3"]:
            raise DamagedError(f"{path}: cut short or changed since it was written")
        yield path, content


def _seal(index: dict[str, Any]) -> str:
    return checksum(json.dumps(index, sort_keys=True).encode())
