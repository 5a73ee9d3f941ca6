"""What JSON of a stranger must be like before it is used: types, bounds and keys; each error names the key."""

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from dira_scale.errors import UserError


@dataclass(frozen=True)
class Within:
    """The bounds, inclusive, of a number, or of how many entries a list has: ``Annotated[int, Within(1, 9)]``."""

    low: float
    high: float = math.inf

    def check(self, value: Any, key: str, repair: str) -> None:
        """Raise UserError naming the key unless ``value`` is within. NaN is not."""
        each = len(value) if isinstance(value, tuple | list | Mapping) else value
        if each is not None and not self.low <= each <= self.high:
            entries = "" if each is value else " entries"
            raise UserError(f"{key[:-1]} has {each}{entries}, not {self.low:g} to {self.high:g}; {repair}")


VIEW = 2**27  # pixels of a view: a volume of 512 x 512 x 512
SIDE = Annotated[int, Within(1, 2**16)]  # of a view, in pixels
CHANNELS = Annotated[int, Within(1, 2**16)]  # of a network
STEP = Annotated[int, Within(0)]


@dataclass(frozen=True)
class Shape:
    """How a file is read. ``repair``: what to do about a damaged one. ``printable``: whether its texts must be."""

    repair: str
    printable: bool = True

    def of(self, kind: Any, value: Any, key: str = "") -> Any:
        """``value`` of JSON as a ``kind``: a dataclass, of which it has no other keys, and all that have no default (an
        older version may not have written the rest); a TypedDict, which says the types of some keys; or a type built
        of such and plain ones. ``key`` ends with a dot. Raises UserError naming the key."""
        origin, arguments = get_origin(kind), get_args(kind)
        if kind is Any:
            return value
        if origin is NotRequired:
            return self.of(arguments[0], value, key)
        if origin is Annotated:
            result = self.of(arguments[0], value, key)
            for bounds in arguments[1:]:
                bounds.check(result, key, self.repair)
            return result
        if (is_dataclass(kind) or is_typeddict(kind)) and isinstance(value, dict):
            return self._keys(kind, value, key)
        if origin in (Mapping, dict) and isinstance(value, Mapping):
            return {name: self.of(arguments[1], each, f"{key}{name}.") for name, each in value.items()}
        if origin in (tuple, list) and isinstance(value, list):
            return origin(self.of(arguments[0], each, f"{key}{i}.") for i, each in enumerate(value))
        if origin in (Union, UnionType):
            return self._either([each for each in arguments if each is not NoneType], value, key, NoneType in arguments)
        if origin is Literal and isinstance(value, str | int) and value in arguments:
            return value
        if kind is float and type(value) is int:
            return float(value)
        if kind is str and self.printable and isinstance(value, str) and not value.isprintable():
            raise UserError(f"{key[:-1]} has unprintable characters; {self.repair}")  # they may command a terminal
        if kind in (str, bool, int, float) and type(value) is kind:
            return value
        wanted = " or ".join(arguments) if origin is Literal else getattr(origin or kind, "__name__", str(kind))
        raise UserError(
            f"{key[:-1] or 'its content'} is {json.dumps(value, default=str)[:40]}, not {wanted.lower()}; {self.repair}"
        )

    def _keys(self, kind: Any, value: dict[str, Any], key: str) -> Any:
        hints, needed = _hints(kind)
        differing = needed - value.keys() | (set() if is_typeddict(kind) else value.keys() - hints.keys())
        if differing:
            name = min(differing)
            raise UserError(f"{key}{name} is {'missing' if name in hints else 'unknown'}; {self.repair}")
        values = {name: self.of(hints.get(name, Any), each, f"{key}{name}.") for name, each in value.items()}
        return values if is_typeddict(kind) else kind(**values)

    def _either(self, kinds: list[Any], value: Any, key: str, nullable: bool) -> Any:
        if value is None and nullable:
            return None
        for kind in kinds[:-1]:
            try:
                return self.of(kind, value, key)
            except UserError:
                pass
        return self.of(kinds[-1], value, key)


@cache
def _hints(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """The types of a kind's keys, and those that must be there."""
    hints = get_type_hints(kind, include_extras=True)
    if is_typeddict(kind):
        return hints, frozenset(kind.__required_keys__)
    hints = {each.name: hints[each.name] for each in fields(kind)}
    return hints, frozenset(each.name for each in fields(kind) if each.default is each.default_factory is MISSING)


def check_settings(kind: type, given: Mapping[str, Any], repair: str) -> None:
    """Raise UserError naming the key if a value is not of the type of its field in the dataclass ``kind``, or a number
    is no plain one. Keys that are not set yet, ``???``, are left out."""
    hints, _ = _hints(kind)
    for name, value in given.items():
        if name in hints and value != "???":
            Shape(repair).of(hints[name], list(value) if isinstance(value, tuple) else value, f"{name}.")
