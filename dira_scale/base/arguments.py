"""Types and bounds of arguments, declared once by annotations; the error of an argument that is wrong.

    @checked
    def __init__(self, encoder: Encoder, dim: Annotated[int, AtLeast(1)] = 128) -> None:

Constructors, settings and JSON are held against such declarations. A part knows its own arguments alone: its error says
which one, what was given and what is expected. The border that built it (``base.config.border.at``) adds the key or
file.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache, wraps
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from dira_scale.base.errors import CONTROLS, nearest

Function = TypeVar("Function", bound=Callable[..., Any])
WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "text", NoneType: "null"}
MAPPING = "a mapping, NAME: VALUE"
KIND = "kind"  # in a field's metadata: the kind of its values, or of those in its list, beyond its type
UNSHOWN: Any = object()  # the value of an argument that has no short form, such as an encoder


class ArgumentError(ValueError):
    """An argument that a part does not take.

    Args:
        name: the argument, or what is inside it: ``queue``, ``blur.sigma``, ``crops[1].size``.
        value: what was given; ``UNSHOWN`` if a message cannot quote it.
        expected: completes the sentence "expected …".
    """

    def __init__(self, name: str, value: Any, expected: str) -> None:
        quoted = "" if value is UNSHOWN else f", got {value!r}"
        super().__init__(f"{name}: expected {expected}{quoted}")
        self.name, self.value, self.expected = name, value, expected

    def __reduce__(self) -> tuple[Any, ...]:  # crosses processes
        return ArgumentError, (self.name, self.value, self.expected)

    def inside(self, name: str) -> "ArgumentError":
        """Return this error for the part that has this one as its argument ``name``."""
        return ArgumentError(f"{name}.{self.name}" if self.name else name, self.value, self.expected)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """An ArgumentError raised in this block is of the argument ``name``."""
    try:
        yield
    except ArgumentError as error:
        raise error.inside(name) from error


@dataclass(frozen=True)
class Bound:
    """The bounds of a number, or of each number of a list; ``text`` completes "a number …". ``whole``: of the list
    itself."""

    text: str
    holds: Callable[[Any], bool]
    whole: bool = False


def AtLeast(low: float) -> Bound:
    """At least ``low``, and finite."""
    return Bound(f"of at least {low:g}", lambda value: low <= value < math.inf)


def Above(low: float, at_most: float = math.inf) -> Bound:
    """Above ``low``, at most ``at_most``, and finite."""
    most = f" and at most {at_most:g}" if at_most < math.inf else ""
    return Bound(f"above {low:g}{most}", lambda value: low < value <= at_most and value < math.inf)


def Within(low: float, high: float) -> Bound:
    """From ``low`` to ``high``, inclusive."""
    return Bound(f"from {low:g} to {high:g}", lambda value: low <= value <= high)


def Length(low: int, high: int | None = None) -> Bound:
    """A list of ``low`` to ``high`` entries; of exactly ``low``, if that is all."""
    most = low if high is None else high
    count = f"{low}" if most == low else f"{low} to {most}"
    return Bound(f"of {count} entries", lambda value: low <= len(value) <= most, whole=True)


def converted(kind: Any, value: Any, name: str = "", *, exact: bool = False) -> Any:
    """``value``, as YAML, JSON or Python hold it, as a ``kind``: a list as the tuple, a mapping as the dataclass that
    it stands for, a whole number as a float.

    Args:
        kind: a plain type, a dataclass, a TypedDict, a Literal, a type built of such, or one with a ``Bound`` in
            Annotated. Of others, such as networks, nothing is asked.
        name: of the argument, for messages.
        exact: whether this is a stranger's JSON, whose text has no control characters, which may command a terminal.

    Raises ArgumentError.
    """
    origin, inner = get_origin(kind), get_args(kind)

    def wrong(hint: str = "") -> ArgumentError:
        return ArgumentError(name, value, f"{words(kind) or kind}{hint}")

    if origin is NotRequired:
        return converted(inner[0], value, name, exact=exact)
    if origin is Annotated:
        try:
            result = converted(inner[0], value, name, exact=exact)
        except ArgumentError as error:
            raise (wrong() if error.name == name else error) from error
        for bound in kind.__metadata__:
            if isinstance(bound, Bound) and result is not None:
                bounded = result if isinstance(result, list | tuple) and not bound.whole else [result]
                if not all(map(bound.holds, bounded)):
                    raise wrong()
        return result
    if origin in (Union, UnionType):
        return _one_of(inner, value, name, exact)
    if origin is Literal:
        if value not in inner or type(value) not in map(type, inner):
            raise wrong(nearest(value, map(str, inner)) if isinstance(value, str) else "")
    elif is_dataclass(kind) or is_typeddict(kind):
        if isinstance(value, Mapping):
            return _of_keys(kind, value, name, exact)
        if is_typeddict(kind) or not isinstance(value, kind):
            raise wrong()
    elif origin in (Mapping, dict):
        if not isinstance(value, Mapping):
            raise wrong()
        return {key: converted(inner[1], item, _within(name, key), exact=exact) for key, item in value.items()}
    elif origin in (tuple, list, Sequence):
        fixed = origin is tuple and Ellipsis not in inner
        if not isinstance(value, list | tuple) or (fixed and len(inner) != len(value)):
            raise wrong()
        pairs = zip(inner if fixed else inner[:1] * len(value), value, strict=True)
        items = (converted(kind, item, f"{name}[{n}]", exact=exact) for n, (kind, item) in enumerate(pairs))
        return (tuple if origin is tuple else list)(items)
    elif kind in WORDS:
        taken = (int, float) if kind is float else kind
        if not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool):
            raise wrong()
        if exact and isinstance(value, str) and CONTROLS.search(value):
            raise ArgumentError(name, UNSHOWN, "text without control characters")
        return float(value) if kind is float else value
    return value


def _within(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _one_of(kinds: Sequence[Any], value: Any, name: str, exact: bool) -> Any:
    """``value`` as the first of the ``kinds`` that takes it; of a tensor, which nobody types, only one is. The error
    is of the only one that may be meant, or names all."""
    if value is None and NoneType in kinds:
        return None
    kinds = [kind for kind in kinds if getattr(kind, "__name__", "") != "Tensor" or isinstance(value, kind)]
    errors = []
    for kind in kinds:
        try:
            return converted(kind, value, name, exact=exact)
        except ArgumentError as error:
            errors.append(error)
    if deeper := [error for error in errors if error.name != name]:
        raise deeper[-1]
    options = [str(option) for kind in kinds if get_origin(kind) is Literal for option in get_args(kind)]
    hint = nearest(value, options) if isinstance(value, str) else ""
    raise ArgumentError(name, value, f"{words(Union[tuple(kinds)])}{hint}")  # noqa: UP007


def _of_keys(kind: Any, value: Mapping[str, Any], name: str, exact: bool) -> Any:
    """A dataclass gets all keys without a default, and no others; of a TypedDict other keys stay as they are."""
    kinds, plain = kinds_of(kind), is_typeddict(kind)
    ours = () if plain else fields(kind)
    required = {field.name for field in ours if field.default is field.default_factory is MISSING}
    if missing := sorted((kind.__required_keys__ if plain else required) - value.keys()):
        raise ArgumentError(_within(name, missing[0]), UNSHOWN, "a value; it is missing")
    known = [*value] if plain else sorted(field.name for field in ours if field.init)
    if unknown := sorted(str(key) for key in value if key not in known):
        hint = f"only {', '.join(known)}{nearest(unknown[0], known)}"
        raise ArgumentError(_within(name, unknown[0]), UNSHOWN, hint)
    items = {key: converted(kinds.get(key, Any), item, _within(name, key), exact=exact) for key, item in value.items()}
    if plain:
        return items
    with inside(name) if name else nullcontext():
        return kind(**items)


@cache
def kinds_of(owner: Any) -> Mapping[str, Any]:
    """Return the kinds, by name, of a function's or constructor's arguments, a dataclass's fields, a TypedDict's keys.

    Raises NameError for an annotation with a name that is not imported at run time.
    """
    constructor = inspect.isclass(owner) and not (is_dataclass(owner) or is_typeddict(owner))
    kinds = get_type_hints(owner.__init__ if constructor else owner, include_extras=True)
    for field in fields(owner) if is_dataclass(owner) else ():
        if KIND in field.metadata:
            kinds[field.name] = _narrowed(kinds[field.name], field)
    return kinds


def _narrowed(hint: Any, field: Field[Any]) -> Any:
    """Return the type ``hint`` of a field, with the KIND in its metadata for what it holds."""
    kind, inner = field.metadata[KIND], get_args(hint)
    if hint is Any:
        return kind | None if field.default is None else kind
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(part if part is NoneType else _narrowed(part, field) for part in inner)]  # noqa: UP007
    if get_origin(hint) is list:
        return list[_narrowed(inner[0], field)]  # type: ignore[misc]
    return Annotated[hint, kind] if isinstance(kind, Bound) else kind


def words(kind: Any) -> str:
    """Return a user's words for a kind, to complete "expected …"; empty for one that nobody types."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bound = next((each for each in kind.__metadata__ if isinstance(each, Bound)), None)
        text = words(inner[0])
        if bound and bound.whole and text.startswith("a list, each"):
            text = "a list"
        return f"{text} {bound.text}" if bound else text
    if origin in (Union, UnionType):
        null_last = sorted(inner, key=lambda kind: kind is NoneType)
        texts = ("a list of them" if get_args(each) == inner[:1] else words(each) for each in null_last)
        return ", or ".join(dict.fromkeys(filter(None, texts)))
    if origin is Literal:
        *others, last = map(str, inner)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is tuple and Ellipsis not in inner:
        # A bound goes unsaid, and so does a tensor in the place of a number, which nobody types.
        plain = {get_args(each)[0] if get_origin(each) in (Annotated, Union, UnionType) else each for each in inner}
        return f"a list of {len(inner)}{' numbers' if plain <= {int, float} else ''}"
    if origin in (tuple, list, Sequence):
        return f"a list, each {text}" if (text := words(inner[0])) else "a list"
    if is_dataclass(kind) or is_typeddict(kind) or origin in (Mapping, dict):
        return MAPPING
    return WORDS.get(kind, "")


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Hold ``given`` values against the annotations of ``function`` or a class's constructor, or, of an argument
    without one, against the kind of its default. Raises ArgumentError."""
    try:
        kinds = kinds_of(function)
    except (NameError, TypeError, AttributeError):  # of names that are imported for type checkers only
        kinds = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name in given:
            # A default that is a whole number may stand for any number.
            default = float if type(parameter.default) is int else type(parameter.default)
            kind = kinds.get(name, default if default in (float, bool, str) else Any)
            converted(kind, given[name], name)


def checked(function: Function) -> Function:
    """The function or constructor, which holds its arguments against their annotations first. Raises ArgumentError."""
    signature = inspect.signature(function)

    @wraps(function)
    def held(*args: Any, **kwargs: Any) -> Any:
        check_arguments(function, signature.bind(*args, **kwargs).arguments)
        return function(*args, **kwargs)

    return held  # type: ignore[return-value]


def check_fields(instance: Any) -> None:
    """Hold the fields of a dataclass's ``instance`` against their annotations. Raises ArgumentError."""
    check_arguments(type(instance), {field.name: getattr(instance, field.name) for field in fields(instance)})
