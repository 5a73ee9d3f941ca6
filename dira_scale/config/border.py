"""The border between a user's keys and the parts that are built from them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from dira_scale.arguments import UNSHOWN, ArgumentError
from dira_scale.config.keys import typed
from dira_scale.errors import UserError


@contextmanager
def at(key: str, elsewhere: Mapping[str, str] | None = None, advice: str = "") -> Iterator[None]:
    """What a part, built of the node ``key``, says of its arguments becomes the user's error of these keys.

    Args:
        elsewhere: the keys of arguments that are not from this node, such as ``{"size": "data.size"}``.
        advice: what else to do, where that takes other keys.

    Raises UserError for a ValueError in this block.
    """
    try:
        yield
    except ArgumentError as error:
        first, rest = re.fullmatch(r"(\w*)(.*)", error.name, re.DOTALL).groups()  # type: ignore[union-attr]
        path = (elsewhere or {}).get(first, f"{key}.{first}".strip(".")) + rest
        given = "" if error.value is UNSHOWN else f"={typed(error.value)}"
        raise UserError(f"{path}{given}: expected {error.expected}{advice}") from error
    except ValueError as error:
        raise UserError(f"{key}: {error}{advice}") from error
