"""The border between a user's keys and the parts that are built from them."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dira_scale.base.arguments import UNSHOWN, ArgumentError, check_arguments
from dira_scale.base.config.keys import typed
from dira_scale.base.config.registry import TARGET, imported
from dira_scale.base.errors import DatasetError, UserError, nearest

# How a dataset gets what it lacks, by the word of a DatasetError.
RESHARD = {
    "labels": "shard it again with recipe.labels=… and another out",
    "classes": "one of several classes is sharded with recipe.class_columns; numbers are learned by task=regression",
    "same classes": "shard both with the same recipe.class_columns, in the same order",
    "fewer classes": "shard again with fewer classes (recipe.class_columns)",
    "numbers": "name the one that is meant (task.labels, task.label), or shard it again with "
    "recipe.label_columns=[COLUMN]",
    "order": "use task=labels, or shard it again with recipe.label_columns",
    "grades": "learn it by task=regression",
    "masks": "shard again with the masks (recipe.columns.mask, docs/how-to/sharding.md) and another out",
    "foreground": "shard again with the masks and another out, or use views.foreground=0",
    "images": "shard the volumes again with recipe.slices=axial and another out, which stores their slices "
    "(docs/how-to/volumes.md)",
    "volumes": "name a dataset of volumes (python -m dira_scale.shard recipe=volumes makes one)",
    "session": "use views.pair=image; sequences are samples with recipe.split_sequences=true",
    "patient": "use views.pair=image",
    "patients of both": "shard both with the same key and recipe.archive, or name the patients in a file",
    "spacing": "use data.spacing=stored, or shard again from files that have it",
    "beton": "python -m dira_scale.shard convert path=DATASET to=ffcv writes it from the shards; data.loader=cpu reads "
    "the shards themselves",
    "codec": "shard again with recipe.codec=gpu, or use data.loader=cpu",
}


def advised(error: Exception) -> str:
    """The error's line, with how a dataset gets what it lacks. Every command prints its errors so."""
    advice = RESHARD[error.lacks] if isinstance(error, DatasetError) and error.lacks else ""
    return f"{error}: {advice}" if advice else str(error)


@contextmanager
def at(key: str, elsewhere: Mapping[str, str] | None = None, advice: str = "") -> Iterator[None]:
    """Turn the error of a part built from the node ``key`` about its arguments into a UserError that names their keys.

    Args:
        elsewhere: the keys of arguments that are not from this node, such as ``{"size": "data.size"}``; also of what
            is inside one, such as ``{"cache.size": "data.cache_size"}``.
        advice: what else to do, where that takes other keys.

    Raises UserError for a ValueError in this block.
    """
    try:
        yield
    except ArgumentError as error:
        first, rest = re.fullmatch(r"(\w*)(.*)", error.name, re.DOTALL).groups()  # type: ignore[union-attr]
        named = elsewhere or {}
        path = named.get(error.name) or named.get(first, f"{key}.{first}".strip(".")) + rest
        quoted = "" if error.value is UNSHOWN else f"={typed(error.value)}"
        raise UserError(f"{path}{quoted}: expected {error.expected}{advice}") from error
    except ValueError as error:
        raise UserError(f"{key}: {error}{advice}" if key else f"{error}{advice}") from error


def constructed(
    key: str,
    node: Mapping[str, Any],
    elsewhere: Mapping[str, str] | None = None,
    positional: Sequence[Any] = (),
    **given: Any,
) -> Any:
    """Construct the class that ``node``, a mapping with ``_target_``, names, from ``positional`` and ``given``
    arguments and the node's others. Mappings with ``_target_`` among these are constructed first, however deep.

    Raises UserError naming the key: a class that cannot be imported or is not trusted, an argument that it does not
    have or need, and, as ``at``, one that it does not take.
    """
    if TARGET not in node:
        raise UserError(f"{key}.{TARGET} is missing: name a class")
    target = imported(f"{key}.{TARGET}", node[TARGET])
    parameters = dict([*inspect.signature(target).parameters.items()][len(positional) :])
    own = {name: value for name, value in node.items() if name != TARGET}
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        settings = [name for name in parameters if name not in given]
        for name in own:
            if name not in settings:
                hint = nearest(name, settings) or f"; ~{key}.{name} takes it out"
                raise UserError(
                    f"{key}.{name}: {target.__name__} has no such setting, only {', '.join(settings)}{hint}"
                )
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if required and name not in own and name not in given:
            raise UserError(f"{key}.{name} is missing: {target.__name__} needs it")
    own = {name: _made(f"{key}.{name}", value) for name, value in own.items()}
    with at(key, elsewhere):
        check_arguments(target, own)
        return target(*positional, **own, **given)


def _made(key: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        parts = {name: _made(f"{key}.{name}", item) for name, item in value.items() if TARGET not in value}
        return constructed(key, value) if TARGET in value else parts
    if isinstance(value, list | tuple):
        return type(value)(_made(f"{key}[{number}]", item) for number, item in enumerate(value))
    return value
