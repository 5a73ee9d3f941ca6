"""Types and bounds of keys. A schema is a dataclass beside the class it configures; its fields declare them.

    @dataclass
    class Data(Schema):
        shards: Any = paths_field()
        batch: int = setting(AtLeast(1))
        lanes: int | None = setting(AtLeast(1), None)
        remainder: str = setting(one_of("drop", "wrap"))

Defaults and their reasons are in ``configs/``: a field has none here, except None where null is allowed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import field, fields, is_dataclass, make_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from dira_scale.base.arguments import KIND, ArgumentError, converted, kinds_of, words
from dira_scale.base.config.registry import TARGET, chosen_class
from dira_scale.base.errors import UserError


class PathKind(Enum):
    """The form in which a key holds paths (folders, files or prefixes in a store), in a user's words."""

    ONE = "a path"
    SEVERAL = "a path, or several"  # a list, or the keys of a mapping
    CONSTRUCTED = ""  # a node with ``_target_``: the constructor's arguments annotated with PathStr are paths


PathStr = Annotated[str, PathKind.ONE]  # for arguments of a constructor named by ``_target_``


def setting(kind: Any, default: Any = MISSING) -> Any:
    """A field whose values, or those in its list, are of a ``kind`` that its type does not say: a bound, words, or,
    for a field of type Any, a type."""
    return field(default=default, metadata={KIND: kind})


def one_of(*options: str) -> Any:
    """The kind of text that is one of these words."""
    return Literal[options]


def several(kind: Any) -> Any:
    """The kind of a value of such a ``kind``, or of a list of them."""
    return kind | list[kind]


def path_field(default: Any = MISSING) -> Any:
    return field(default=default, metadata={PathKind: PathKind.ONE})


def paths_field(default: Any = MISSING) -> Any:
    """A path, or several: a list or the keys of a mapping."""
    return field(default=default, metadata={PathKind: PathKind.SEVERAL})


def constructed() -> Any:
    """A node whose ``_target_`` is constructed with its other keys; its annotations mark paths."""
    return field(default=MISSING, metadata={PathKind: PathKind.CONSTRUCTED})


class Schema:
    """Base class of all schemas: checks the values of its fields on construction.

    A subclass checks relations between fields in ``__post_init__``, after ``super().__post_init__()``. Errors name the
    field, which :func:`dira_scale.base.config.compose.compose` completes to the full key.
    """

    def __post_init__(self) -> None:
        """Raises ArgumentError if a value is not of its field's kind; ignores fields that are not set yet."""
        kinds = kinds_of(type(self))  # type: ignore[arg-type]  # classes are hashable
        for name in (each.name for each in fields(self) if KIND in each.metadata):  # type: ignore[arg-type]
            if (value := getattr(self, name)) != MISSING:
                converted(kinds[name], value, name)
                if value == []:
                    raise ArgumentError(name, value, "at least one entry")

    @classmethod
    def adopt(cls, config: DictConfig, typed: Collection[str]) -> None:
        """Set keys of a root schema's composed ``config`` that follow from others and were not ``typed``."""

    @classmethod
    def incomplete(cls, config: DictConfig, missing: Sequence[str], help: str) -> UserError:
        """Return the error of the keys that are ``missing`` in a root schema's ``config``; ``help`` is the command that
        describes them."""
        keys, typed = ", ".join(missing), " ".join(f"{key}=…" for key in missing)
        return UserError(f"{keys} must be given: {typed}; {help} describes {'it' if len(missing) == 1 else 'them'}")


def path_keys(schema: type, prefix: str = "") -> dict[str, PathKind]:
    """The dotted keys of a schema that hold paths, and how."""
    keys: dict[str, PathKind] = {}
    hints = get_type_hints(schema)
    for each in fields(schema):
        key = f"{prefix}{each.name}"
        if PathKind in each.metadata:
            keys[key] = each.metadata[PathKind]
        elif is_dataclass(hints[each.name]):
            keys |= path_keys(hints[each.name], f"{key}.")
    return keys


def specialised(schema: type, config: Mapping[Any, Any]) -> type:
    """``schema`` with, for each node that chooses its own schema by ``_target_``, the class chosen in ``config``.

    Keys of such a node that are null, and that the class does not have, are taken out: Hydra's ``~KEY`` finds no null.
    """
    chosen = {}
    for name, hint in get_type_hints(schema).items():
        if isinstance(hint, type) and is_dataclass(hint) and TARGET in (each.name for each in fields(hint)):
            node = config.get(name)
            if isinstance(node, DictConfig) and node.get(TARGET):
                chosen[name] = chosen_class(hint, f"{name}.{TARGET}", str(node[TARGET]))
                values: Any = OmegaConf.to_container(node, resolve=False)
                own = {each.name for each in fields(chosen[name])}
                with open_dict(node):
                    for key in [key for key, value in values.items() if value is None and key not in own]:
                        del node[key]
    return _with_fields(schema, tuple(chosen.items())) if chosen else schema


@cache  # one class, of which Hydra's structure is kept
def _with_fields(schema: type, classes: tuple[tuple[str, type], ...]) -> type:
    new = [(name, kind, field(default_factory=kind)) for name, kind in classes]
    extended = make_dataclass(schema.__name__, new, bases=(schema,))
    extended.__module__ = schema.__module__
    return extended


def path_arguments(constructor: Any) -> dict[str, PathKind]:
    """The arguments of a class that hold paths, and how: annotated with :data:`PathStr` or ``Path``, or a type built on
    these (``PathStr | None`` holds one, ``Sequence[PathStr]`` several).

    Raises:
        NameError: an annotation uses a name that is not imported at run time.
    """
    hints = get_type_hints(constructor.__init__, include_extras=True)
    return {name: kind for name, hint in hints.items() if (kind := _path_kind(hint)) is not None}


def _path_kind(hint: Any) -> PathKind | None:
    if hint is Path or (get_origin(hint) is Annotated and PathKind.ONE in hint.__metadata__):
        return PathKind.ONE
    if not (kinds := {_path_kind(part) for part in get_args(hint)} - {None}):
        return None
    return PathKind.ONE if get_origin(hint) in (Union, UnionType) and kinds == {PathKind.ONE} else PathKind.SEVERAL


def kind_words(schema: type, key: str) -> str:
    """Return the words that complete "expected …" for a dotted key: ``a whole number of at least 1, or null``; empty if
    the schema leaves it open."""
    hint: Any = schema
    for name in key.split("."):
        if get_origin(hint) in (dict, Mapping):
            hint = get_args(hint)[1]
            continue
        each = {each.name: each for each in fields(hint)}.get(name) if is_dataclass(hint) else None
        if each is None:
            return ""
        if paths := each.metadata.get(PathKind, PathKind.CONSTRUCTED).value:
            return f"{paths}, or null" if each.default is None else str(paths)
        hint = kinds_of(hint)[name]
    return words(hint)
