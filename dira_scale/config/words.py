"""Values as the words of a command line: the inverse of :func:`dira_scale.config.compose.compose`."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from dira_scale.config.compose import places_of
from dira_scale.config.keys import typed
from dira_scale.config.schema import Places

PLAIN = re.compile(r"([a-z0-9]+://|\.{0,2}/)?[A-Za-z_][\w./-]*", re.ASCII)  # text in Hydra's grammar, but for these:
SPECIAL = {"null", "true", "false", "nan", "inf"}

_places = lru_cache(places_of)  # a composition each


def as_words(values: Mapping[str, object]) -> list[str]:
    """``KEY=VALUE`` for each value, of which a command composes exactly these. ``${KEY}`` stays an interpolation."""
    return [f"{key}={written(value)}" for key, value in values.items()]


def places_in(verb: str, values: Mapping[str, object], config_dirs: Sequence[Path] = ()) -> set[str]:
    """The keys of ``verb`` that hold one place or several, under the choices among ``values``.

    Raises UserError if there is no such choice.
    """
    choices = [f"{key}={written(value)}" for key, value in values.items() if "." not in key or "_target_" in key]
    places = _places(verb, tuple(sorted(choices)), tuple(config_dirs))
    return {key for key, kind in places.items() if kind in (Places.ONE, Places.SEVERAL)}


def written(value: object) -> str:
    """A value in Hydra's grammar: text in quotes where they are needed, lists and mappings with all that they hold."""
    match value:
        case str() if PLAIN.fullmatch(value) and value.lower() not in SPECIAL:
            return value
        case str():
            return QuotedString(value, Quote.single).with_quotes()
        case list() | tuple():
            return f"[{','.join(map(written, value))}]"
        case dict():
            return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    return typed(value)
