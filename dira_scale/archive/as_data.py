"""Writes what a source lists as JSON, and reads it by the annotations of its classes: a listing may be a stranger's."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from inspect import isclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import as_os_error
from dira_scale.base.storage.text import brief

KIND = "kind"  # names the class of an image or mask that is not one file
OURS = "dira_scale.archive."  # where the kinds of our sources are; those of another are in the module of its class


class Notation(NamedTuple):
    """Says how paths are written and read; both functions raise ValueError for a path that they refuse."""

    text: Callable[[Path], str]
    path: Callable[[str], Path]
    module: str = ""  # holds the recipe's source class; its classes may be named, too


def _no_path(_: Any) -> Any:
    raise ValueError("a path")


NO_PATHS = Notation(_no_path, _no_path)
Reader = Callable[[Any, Notation], Any]


def write(value: Any, notation: Notation) -> str:
    """JSON of ``value``. Raises UserError for a kind that could not be read again; ValueError as ``notation``."""
    return json.dumps(_plain(value, notation), separators=(",", ":"))


def read(kind: Any, text: str, notation: Notation) -> Any:
    """The value of a ``kind`` that :func:`write` wrote. Raises ValueError for anything else."""
    try:
        return _reader(kind)(json.loads(text), notation)
    except (LookupError, TypeError, RecursionError, AttributeError, ImportError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


@contextmanager
def opened(path: Path, cure: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file of texts that are read inside. Raises UserError with the ``cure`` if it, or what is in it, is not
    as it was written; OSError if it cannot be read now."""
    try:
        with as_os_error(path, pa.ArrowException, ValueError, LookupError, TypeError), path.open("rb") as source, \
                pq.ParquetFile(source, page_checksum_verification=True) as file:  # fmt: skip
            yield file
    except (pa.ArrowException, ValueError, LookupError, TypeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = brief(" ".join(str(error).split()))
        raise UserError(f"{path} is damaged, or not what was written there ({reason}): {cure}") from error


def _plain(value: Any, notation: Notation) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path) or hasattr(value, "fs"):
        return notation.text(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    kind = type(value)
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        named = {KIND: f"{kind.__module__}.{kind.__name__}"} if hasattr(kind, "read") or hasattr(kind, "paint") else {}
        if named and _class_of(named[KIND], notation) is not kind:
            raise _cannot_be_kept(kind)
        readers: dict[str, Reader] = _readers(kind)  # type: ignore[arg-type]  # classes are hashable
        return named | {name: _plain(getattr(value, name), notation) for name in readers}
    if isinstance(value, Mapping):
        return {str(key): _plain(each, notation) for key, each in value.items()}
    if isinstance(value, Sequence | frozenset):
        return [_plain(each, notation) for each in value]
    raise _cannot_be_kept(kind)


def _class_of(name: str, notation: Notation) -> Any:
    module, _, own = name.rpartition(".")
    if not module.startswith(OURS) and module != notation.module:
        raise _cannot_be_kept(name)
    return getattr(import_module(module), own)


def _cannot_be_kept(kind: Any) -> UserError:
    return UserError(f"a plan cannot keep {kind}: images and masks of recipe._target_ must be dataclasses of numbers, "
                     "texts, paths and tuples, in its module; or shard without `shard list`")  # fmt: skip


@cache
def _readers(kind: type) -> dict[str, Reader]:
    """Return the reader of each field of a ``kind``."""
    hints = get_type_hints(kind)
    names = getattr(kind, "_fields", None) or [each.name for each in fields(kind)]
    return {name: _reader(hints[name]) for name in names}


@cache
def _reader(kind: Any) -> Reader:
    """Return the function that reads a value of a ``kind`` from JSON. Raises UserError for a type that JSON lacks."""
    origin, of = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        readers = {json_type: _reader(each) for each in of for json_type in _types(each)}
        return lambda value, notation: readers[type(value)](value, notation)
    types, make = _types(kind), _maker(kind, origin, of)

    def read(value: Any, notation: Notation) -> Any:
        if type(value) not in types:
            raise TypeError(f"{type(value).__name__} where {kind} is expected")
        return make(value, notation)

    return read


def _types(kind: Any) -> tuple[type, ...]:
    origin = get_origin(kind) or kind
    if origin in (str, bool, int, NoneType, float):
        return (float, int) if origin is float else (origin,)
    if origin in (Path, bytes):
        return (str,)
    lists = origin is np.ndarray or (isclass(origin) and issubclass(origin, Sequence | frozenset))
    return (list,) if lists and not hasattr(origin, "_fields") else (dict,)


def _maker(kind: Any, origin: Any, of: tuple[Any, ...]) -> Reader:
    if origin in (str, bool, int, NoneType, float):
        return lambda value, notation: value
    if origin is Path:
        return lambda value, notation: notation.path(value)
    if origin is bytes:
        return lambda value, notation: base64.b64decode(value, validate=True)
    if origin is np.ndarray:
        return lambda value, notation: _vector(value)
    if getattr(kind, "_is_protocol", False):
        return lambda value, notation: _of_kind(kind, _reader(_class_of(value[KIND], notation))(value, notation))
    if is_dataclass(kind) or hasattr(kind, "_fields"):
        by_name = _readers(kind)
        return lambda value, notation: kind(**{name: read(value[name], notation) for name, read in by_name.items()})
    if of and issubclass(origin, Mapping):
        key, each = of[0], _reader(of[1])
        return lambda value, notation: {key(k): each(v, notation) for k, v in value.items()}
    if origin is tuple and of[-1] is not Ellipsis:
        every = [*map(_reader, of)]
        return lambda value, notation: tuple(read(v, notation) for read, v in zip(every, value, strict=True))
    if of and isclass(origin) and issubclass(origin, Sequence | frozenset):
        kept, each = frozenset if origin is frozenset else tuple, _reader(of[0])
        return lambda value, notation: kept(each(v, notation) for v in value)
    raise _cannot_be_kept(kind)


def _vector(value: list[Any]) -> np.ndarray:
    vector = np.array(value, float)
    if vector.shape != (3,) or not np.isfinite(vector).all():
        raise ValueError(f"{value} is no place in space")
    return vector


def _of_kind(protocol: Any, value: Any) -> Any:
    if not isinstance(value, protocol):
        raise TypeError(f"{type(value).__name__} is no {protocol.__name__}")
    return value
