"""Schemas: bounds are checked when an object is made, places are found, types and bounds are said in words."""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING

from dira_scale.config.registry import REGISTERED, imported
from dira_scale.config.schema import (
    PathKind,
    PathStr,
    Schema,
    above,
    at_least,
    constructed,
    kind,
    one_of,
    path_arguments,
    path_field,
    path_keys,
    paths_field,
    whole_or,
    within,
)
from dira_scale.data import views
from dira_scale.data.distort import corruptions
from dira_scale.errors import UserError


@dataclass
class Inner(Schema):
    folder: str | None = path_field(None)
    share: float = within(0, 1)


@dataclass
class Outer(Schema):
    count: int = at_least(1)
    limit: int | None = at_least(1, None)
    rate: float = above(0)
    shares: list[float] = above(0, at_most=1)
    how: str = one_of("drop", "wrap")
    threads: Any = whole_or("auto", 1)
    inputs: Any = paths_field()
    node: dict[str, Any] = constructed()
    inner: Inner = field(default_factory=Inner)
    stages: dict[str, Inner] = MISSING
    name: str = MISSING


class Source:
    def __init__(
        self, images: PathStr, file: Path | None = None, parts: Sequence[PathStr] | None = None, name: str = ""
    ) -> None: ...


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Outer(count=0), "count=0: must be at least 1$"),
        (lambda: Outer(limit=0), "limit=0: must be at least 1, or null$"),
        (lambda: Outer(rate=0.0), "rate=0.0: must be above 0$"),
        (lambda: Outer(rate=math.inf), "rate=inf: must be above 0"),
        (lambda: Outer(rate=math.nan), "rate=nan: must be above 0"),
        (lambda: Outer(shares=[0.5, 1.5]), r"shares=\[0\.5, 1\.5\]: must be above 0 and at most 1"),
        (lambda: Outer(shares=[]), r"shares=\[\]: must be above 0"),
        (lambda: Outer(how="drp"), "how=drp: must be one of drop, wrap; did you mean 'drop'"),
        (lambda: Outer(threads=0), "threads=0: must be auto, or a whole number of at least 1$"),
        (lambda: Outer(threads=[1, 2]), r"threads=\[1, 2\]: must be auto, or"),
        (lambda: Outer(threads=None), "threads=null: must be auto, or"),
        (lambda: Inner(share=1.01), "share=1.01: must be from 0 to 1"),
        (lambda: Inner(share=math.nan), "share=nan: must be from 0 to 1"),
    ],
)
def test_a_value_out_of_bounds_is_named(make: Callable[[], Schema], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_what_is_not_set_or_null_is_not_looked_at() -> None:
    assert Outer().count == MISSING and Outer(threads="auto").threads == "auto"
    assert Outer(count=1, limit=None, rate=1e-9, shares=[1.0], how="wrap").limit is None


def test_places_are_found_by_their_keys() -> None:
    assert path_keys(Outer) == {
        "inputs": PathKind.SEVERAL,
        "node": PathKind.CONSTRUCTED,
        "inner.folder": PathKind.ONE,
    }
    assert path_arguments(Source) == {"images": PathKind.ONE, "file": PathKind.ONE, "parts": PathKind.SEVERAL}


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("count", "int, at least 1"),
        ("limit", "int or null, at least 1"),
        ("shares", "list of float, above 0 and at most 1"),
        ("how", "one of drop, wrap"),
        ("inputs", "path, or several"),
        ("inner.folder", "path or null"),
        ("stages.first.share", "float, from 0 to 1"),
        ("name", "text"),
        ("node.anything", ""),
        ("unknown", ""),
    ],
)
def test_types_and_bounds_in_words(key: str, words: str) -> None:
    assert kind(Outer, key) == words


def test_a_target_is_a_name_in_a_module_or_in_a_class() -> None:
    assert imported("key", "collections.OrderedDict.fromkeys") == OrderedDict.fromkeys
    for target, reason in {
        "nowhere.Net": "No module named 'nowhere'",
        "nowhere.networks.Net": "No module named 'nowhere'",
        "collections.OrderedDct": "module 'collections' has no attribute 'OrderedDct'",
    }.items():
        with pytest.raises(UserError, match=f"key: {target} cannot be imported: {reason}"):
            imported("key", target)
    with pytest.raises(UserError, match=r"key: Dira is neither a registered name nor .*did you mean 'DiRA'"):
        imported("key", "Dira")


def test_all_that_views_may_name_is_registered() -> None:
    classes = [value for module in (views, corruptions) for value in vars(module).values() if is_dataclass(value)]
    assert {each.__name__ for each in classes} - {"Distortion", "Geometry"} <= REGISTERED.keys()


def test_a_registered_name_is_that_of_its_class() -> None:
    assert [imported("key", name).__name__ for name in REGISTERED] == [*REGISTERED]
