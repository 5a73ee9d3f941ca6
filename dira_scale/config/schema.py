"""Types and bounds of keys. A schema is a dataclass beside the class it configures; its fields declare them.

    @dataclass
    class Data(Schema):
        shards: Any = paths_field()
        batch: int = at_least(1)
        lanes: int | None = at_least(1, None)
        remainder: str = one_of("drop", "wrap")

Defaults and their reasons are in ``configs/``: a field has none here, except None where null is allowed.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass, make_dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf, open_dict

from dira_scale.config.keys import typed
from dira_scale.config.registry import TARGET, chosen_class
from dira_scale.errors import UserError, nearest


class PathKind(Enum):
    """How a key holds paths: folders, files or prefixes in a store."""

    ONE = "a path"
    SEVERAL = "a path, or a list or mapping of paths"
    CONSTRUCTED = "a node with ``_target_``; the constructor's arguments annotated with PathStr are paths"


MAPPING = "a mapping, NAME: VALUE"
PATH_WORDS = {PathKind.ONE: "path", PathKind.SEVERAL: "path, or several"}
PathStr = Annotated[str, PathKind.ONE]  # for arguments of a constructor named by ``_target_``


@dataclass(frozen=True)
class Rule:
    """``text`` completes the sentence "must be …". ``several``: a list is judged by its items."""

    text: str
    holds: Callable[[Any], bool]
    options: tuple[str, ...] = ()
    several: bool = True


def at_least(low: float, default: Any = MISSING) -> Any:
    """A finite number of at least ``low``, or a list of them."""
    return _ruled(Rule(f"at least {low:g}", lambda value: low <= value < math.inf), default)


def whole(low: int, default: Any = MISSING) -> Any:
    """A whole number of at least ``low``, or a list of them, for a field of type Any: schemas have no such union."""
    text = f"a whole number of at least {low}, or a list of them"
    return _ruled(Rule(text, lambda value: _is_whole(value, low)), default)


def numbers_above(low: float) -> Any:
    """A finite number above ``low``, or a list of them, for a field of type Any."""
    text = f"a number above {low:g}, or a list of them"
    return _ruled(Rule(text, lambda value: type(value) in (int, float) and low < value < math.inf), MISSING)


def whole_or(word: str, low: int) -> Any:
    """``word``, or a whole number of at least ``low``, for a field of type Any."""
    text = f"{word}, or a whole number of at least {low}"
    return _ruled(Rule(text, lambda value: value == word or _is_whole(value, low), several=False), MISSING)


def above(low: float, default: Any = MISSING, at_most: float | None = None) -> Any:
    """A finite number above ``low`` and at most ``at_most``, or a list of them."""
    text = f"above {low:g}" + (f" and at most {at_most:g}" if at_most is not None else "")
    top = math.nextafter(math.inf, 0) if at_most is None else at_most
    return _ruled(Rule(text, lambda value: low < value <= top), default)


def within(low: float, high: float, default: Any = MISSING) -> Any:
    """A number from ``low`` to ``high``, inclusive, or a list of them."""
    return _ruled(Rule(f"from {low:g} to {high:g}", lambda value: low <= value <= high), default)


def one_of(*options: str, default: Any = MISSING) -> Any:
    """One of these words, or a list of them."""
    return _ruled(Rule(f"one of {', '.join(options)}", lambda value: value in options, options), default)


def path_field(default: Any = MISSING) -> Any:
    """A path or URL."""
    return field(default=default, metadata={PathKind: PathKind.ONE})


def paths_field(default: Any = MISSING) -> Any:
    """A path, or several: a list or the keys of a mapping."""
    return field(default=default, metadata={PathKind: PathKind.SEVERAL})


def constructed() -> Any:
    """A node whose ``_target_`` is constructed with its other keys; its annotations mark paths."""
    return field(default=MISSING, metadata={PathKind: PathKind.CONSTRUCTED})


def _is_whole(value: object, low: int) -> bool:
    return type(value) is int and value >= low


def _ruled(rule: Rule, default: Any) -> Any:
    return field(default=default, metadata={Rule: rule})


class Schema:
    """Base class of all schemas: checks the bounds of its fields on construction.

    A subclass checks relations between fields in ``__post_init__``, after ``super().__post_init__()``. Messages begin
    with the field's name, which :func:`dira_scale.config.compose.compose` completes to the full key.
    """

    def __post_init__(self) -> None:
        """Raises UserError if a value is out of its field's bounds; ignores fields that are not set yet."""
        for each in fields(self):  # type: ignore[arg-type]  # they are dataclasses
            value, rule = getattr(self, each.name), each.metadata.get(Rule)
            if rule is None or value == MISSING:
                continue
            if value is None and (each.default is None or each.type is not Any):  # typed fields: OmegaConf sees to it
                continue
            values = value if isinstance(value, list | tuple) and rule.several else [value]
            wrong = [item for item in values if not rule.holds(item)]
            if wrong or not values:
                or_null = ", or null" if each.default is None else ""
                hint = nearest(str(wrong[0]), rule.options) if wrong else ""
                raise UserError(f"{each.name}={typed(value)}: must be {rule.text}{or_null}{hint}")

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
            if isinstance(node, Mapping) and node.get(TARGET):
                chosen[name] = chosen_class(hint, f"{name}.{TARGET}", str(node[TARGET]))
                _drop_nulls(node, {each.name for each in fields(chosen[name])})
    return _with_fields(schema, tuple(chosen.items())) if chosen else schema


def _drop_nulls(node: Any, known: set[str]) -> None:
    plain: Any = OmegaConf.to_container(node, resolve=False)
    with open_dict(node):
        for key, value in plain.items():
            if value is None and key not in known:
                del node[key]


@cache
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
    kinds = {_path_kind(part) for part in get_args(hint)} - {None}
    if not kinds:
        return None
    return PathKind.ONE if get_origin(hint) in (Union, UnionType) and kinds == {PathKind.ONE} else PathKind.SEVERAL


def kind(schema: type, key: str) -> str:
    """Type and bounds of a dotted key in words: ``int or null, at least 1``; empty if the schema leaves it open."""
    hint, declared = _declared(schema, key)
    if declared is None:
        return ""
    text, rule = _words(hint, declared.metadata.get(PathKind)), declared.metadata.get(Rule)
    return text if rule is None else f"{text}, {rule.text}" if text and not rule.options else rule.text


def is_mapping(schema: type, key: str) -> bool:
    """Whether a dotted key must have keys of its own."""
    hint, _ = _declared(schema, key)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return any(is_dataclass(part) or get_origin(part) in (dict, Mapping) for part in kinds)


def _declared(schema: type, key: str) -> tuple[Any, Field[Any] | None]:
    """The type of a dotted key, None if the schema leaves it open, and the field that declares it, if one does."""
    hint: Any = schema
    declared = None
    for name in key.split("."):
        if get_origin(hint) in (dict, Mapping):
            hint, declared = get_args(hint)[1], None
        else:
            known = {each.name: each for each in fields(hint)} if is_dataclass(hint) else {}
            declared = known.get(name)
            hint = get_type_hints(hint)[name] if declared else None
    return hint, declared


def _words(hint: Any, paths: PathKind | None) -> str:
    if get_origin(hint) in (Union, UnionType):
        kinds = [part for part in get_args(hint) if part is not NoneType]
        words = [text for part in kinds if (text := _words(part, paths))]
        return " or ".join([*words, "null"]) if words else ""
    if paths in PATH_WORDS:
        return PATH_WORDS[paths]
    if hint is Any or get_origin(hint) is dict or is_dataclass(hint):
        return ""
    if get_origin(hint) is list:
        return f"list of {_words(get_args(hint)[0], None)}"
    return {str: "text", bool: "true or false"}.get(hint, getattr(hint, "__name__", ""))
