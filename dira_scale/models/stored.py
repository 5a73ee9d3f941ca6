"""Files of weights as plain tensors, whoever wrote them; nothing is unpickled."""

import argparse
import pickle
import re
import shlex
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dira_scale.errors import UserError

# What the two readers raise for files that are cut short, of another kind, or made to harm.
_UNREADABLE = (
    SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError,
    AttributeError, AssertionError, struct.error,
)  # fmt: skip
_KEEP_TENSORS = (
    "import sys, torch; c = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    "torch.save(c.get('state_dict', c.get('model', c)), sys.argv[2])"
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a ``.safetensors`` or PyTorch file, by the keys that lead to them joined with dots.

    Raises ``UserError`` naming the file: it is not there, or is no plain tensors.
    """
    key = f"model.weights: {path}"
    if not path.is_file():
        raise UserError(f"{key}: no such file; name a local .safetensors or .pth file, or a run's folder")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # Releases keep their command line beside the weights. A Namespace only holds what this same reader let in.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return dict(_flatten(torch.load(path, map_location="cpu", weights_only=True)))
    except _UNREADABLE as error:
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            command = ["python", "-c", _KEEP_TENSORS, str(path), f"{path.stem}-tensors.pth"]
            raise UserError(
                f"{key}: holds {found[1]} beside its tensors, and Python objects are not unpickled here, since that "
                f"can run code; if you trust who made the file, keep its tensors: {shlex.join(command)}"
            ) from error
        told = isinstance(error, SafetensorError | OSError | RuntimeError) and str(error)
        reason = told.splitlines()[0] if told else "no PyTorch file, or a damaged one"
        raise UserError(f"{key}: cannot be read as plain tensors ({reason}); save a state_dict") from error


def _flatten(stored: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors with the keys that lead to them; optimizers number theirs and are left out."""
    if isinstance(stored, Tensor):
        yield prefix, stored
    elif isinstance(stored, Mapping):
        for key, value in stored.items():
            if isinstance(key, str):
                yield from _flatten(value, f"{prefix}.{key}" if prefix else key)
