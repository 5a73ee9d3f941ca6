"""Values of a node with ``_target_``, against the signature of what it constructs: one line instead of a traceback."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from dira_scale.config.keys import typed
from dira_scale.config.registry import imported
from dira_scale.config.schema import MAPPING
from dira_scale.errors import UserError

WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", NoneType: "null"}


def check_values(target: Callable[..., Any], given: Mapping[str, Any], key: str) -> None:
    """Look at the values ``given`` in the node ``key``, which ``target`` would be called with.

    Judges numbers, words, true or false, null, pairs of numbers (``betas``) and nodes; what a signature leaves open may
    be anything.

    Raises UserError naming the key, the value, and what is expected.
    """
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError, AttributeError):  # of names that are imported for type checkers only
        hints = {}
    for name, parameter in inspect.signature(target).parameters.items():
        kinds = _parts(hints[name]) if name in hints else _like(parameter.default)
        if name not in given or not kinds or not all(map(_words, kinds)):
            continue
        if not any(_is(given[name], kind) for kind in kinds):
            expected = ", or ".join(dict.fromkeys(map(_words, kinds)))
            raise UserError(f"{key}.{name}={typed(given[name])}: expected {expected}")


def check_node(node: Mapping[str, Any], key: str) -> None:
    """As :func:`check_values` for the constructed ``node`` and those inside it, also in mappings; their ``_target_``
    must exist."""
    for name, inner in node.items():
        if isinstance(inner, Mapping):
            check_node(inner, f"{key}.{name}")
    if "_target_" in node:
        check_values(imported(f"{key}._target_", node["_target_"]), node, key)


def _parts(hint: Any) -> list[Any]:
    """The kinds that an annotation allows, without tensors, which nobody types."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return [part for part in parts if getattr(part, "__name__", "") != "Tensor"]


def _like(default: Any) -> list[Any]:
    """The kind of an argument without annotation, from its default: a whole number may stand for any number."""
    kind = float if type(default) is int else type(default)
    return [kind] if kind in (float, bool, str) else []


def _words(kind: Any) -> str:
    """What a user knows a kind by; empty for one that is not judged."""
    if _is_numbers(kind):
        return f"a list of {len(get_args(kind))} numbers"
    return MAPPING if is_dataclass(kind) else WORDS.get(kind, "")


def _is_numbers(kind: Any) -> bool:
    """Whether a kind is a tuple of so many numbers."""
    return get_origin(kind) is tuple and all(_parts(part) == [float] for part in get_args(kind))


def _is(value: Any, kind: Any) -> bool:
    if _is_numbers(kind):
        several = isinstance(value, list | tuple)
        return several and len(value) == len(get_args(kind)) and all(_is(item, float) for item in value)
    if is_dataclass(kind):
        return isinstance(value, Mapping)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))
