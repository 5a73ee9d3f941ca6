"""Reads weight files from any source as plain tensors, without unpickling objects; writes safetensors."""

import argparse
import json
import pickle
import re
import shlex
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

# What the two readers raise for truncated, foreign or malicious files.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError, struct.error, BadZipFile,
)  # fmt: skip
MOST = 2**18  # tensors and mappings in a file; networks have thousands
_KEEP_TENSORS = (
    "import sys, torch; c = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    "torch.save(next((c[k] for k in ('state_dict', 'model', 'network_weights') if k in c), c), sys.argv[2])"
)


class WeightsError(ValueError):
    """A file of weights that cannot be read, or is of another network."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` or PyTorch file by their keys, nested ones joined with dots.

    Raises WeightsError naming the file if it is missing or not plain tensors.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; name a local .safetensors or .pth file, or a run's folder")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Releases keep their command line beside the weights. A Namespace can only hold what this reader allows.
        with torch.serialization.safe_globals([argparse.Namespace]):
            _require_uncompressed(path)
            stored = torch.load(path, map_location="cpu", weights_only=True)
        tensors, most = dict[str, Tensor](), path.stat().st_size
        for count, (name, value) in enumerate(_flatten(stored)):
            size = value.numel() * value.element_size() if isinstance(value, Tensor) else 0
            if count > MOST or size > most:  # one value with many names, or one number as a tensor of any size
                raise ValueError("more than the file holds")
            if isinstance(value, Tensor):
                tensors[name] = value
        return tensors
    except _UNREADABLE as error:
        if match := re.search(r"GLOBAL (\S+)", str(error)):
            command = ["python", "-c", _KEEP_TENSORS, str(path), f"{path.stem}-tensors.pth"]
            raise WeightsError(
                f"{path}: holds {match[1]} beside its tensors; unpickling Python objects can run code and is "
                f"refused. If you trust the file, extract its tensors: {shlex.join(command)}"
            ) from error
        detail = isinstance(error, SafetensorError | OSError | RuntimeError) and str(error)
        reason = detail.splitlines()[0] if detail else "not a PyTorch file, or damaged"
        raise WeightsError(f"{path}: cannot be read as plain tensors ({reason}); save a state_dict") from error


def _require_uncompressed(path: Path) -> None:
    """Raise RuntimeError for a zip that holds more than its own size: a megabyte of it may inflate to gigabytes."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # by which torch knows a zip
            return
    with ZipFile(path) as archive:
        members = archive.infolist()
    compressed = any(member.compress_type != ZIP_STORED for member in members)
    if compressed or sum(member.file_size for member in members) > path.stat().st_size:
        raise RuntimeError("a compressed zip; torch.save compresses nothing")


def _flatten(stored: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All tensors and mappings with their joined keys, without optimizer states, whose keys are numbers."""
    if isinstance(stored, Tensor | Mapping):
        yield prefix, stored
    if isinstance(stored, Mapping):
        for key, value in stored.items():
            if isinstance(key, str):
                yield from _flatten(value, f"{prefix}.{key}" if prefix else key)


def to_safetensors(state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of contiguous CPU copies; the same bytes each time, as ``save`` shuffles metadata."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, dict(metadata))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start]) | {"__metadata__": dict(metadata)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + content[start:]
