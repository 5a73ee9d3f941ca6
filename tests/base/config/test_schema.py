"""Schemas: bounds are checked when an object is made, places are found, types and bounds are said in words."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from omegaconf import MISSING

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Within
from dira_scale.base.config.registry import REGISTERED, imported
from dira_scale.base.config.schema import (
    PathKind,
    PathStr,
    Schema,
    constructed,
    kind_words,
    one_of,
    path_arguments,
    path_field,
    path_keys,
    paths_field,
    setting,
    several,
)
from dira_scale.base.errors import UserError
from dira_scale.train.data import views
from dira_scale.train.data.distort import corruptions
from dira_scale.train.distributed.config import Threads


@dataclass
class Inner(Schema):
    folder: str | None = path_field(None)
    share: float = setting(Within(0, 1))


@dataclass
class Outer(Schema):
    count: int = setting(AtLeast(1))
    limit: int | None = setting(AtLeast(1), None)
    rate: float = setting(Above(0))
    shares: list[float] = setting(Above(0, 1))
    how: str = setting(one_of("drop", "wrap"))
    threads: Any = setting(Threads)
    sizes: Any = setting(several(Annotated[int, AtLeast(1)]))
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
        (lambda: Outer(count=0), "count: expected a whole number of at least 1, got 0$"),
        (lambda: Outer(limit=0), "limit: expected a whole number of at least 1, or null, got 0$"),
        (lambda: Outer(shares=[0.5, 1.5]), r"shares\[1\]: expected a number above 0 and at most 1, got 1.5"),
        (lambda: Outer(shares=[]), r"shares: expected at least one entry, got \[\]"),
        (lambda: Outer(how="drp"), "how: expected drop or wrap; did you mean 'drop'"),
        (lambda: Outer(threads=0), "threads: expected auto, or a whole number of at least 1, got 0$"),
        (lambda: Outer(threads=[1, 2]), r"threads: expected auto, or a whole number of at least 1, got \[1, 2\]"),
        (lambda: Outer(sizes=[2, 0]), r"sizes\[1\]: expected a whole number of at least 1, got 0"),
        (lambda: Outer(sizes="big"), "sizes: expected a whole number of at least 1, or a list of them, got 'big'"),
        (lambda: Inner(share=1.01), "share: expected a number from 0 to 1, got 1.01"),
    ],
)
def test_a_value_out_of_bounds_is_named(make: Callable[[], Schema], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
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
        ("count", "a whole number of at least 1"),
        ("limit", "a whole number of at least 1, or null"),
        ("shares", "a list, each a number above 0 and at most 1"),
        ("sizes", "a whole number of at least 1, or a list of them"),
        ("how", "drop or wrap"),
        ("inputs", "a path, or several"),
        ("inner", "a mapping, NAME: VALUE"),
        ("inner.folder", "a path, or null"),
        ("stages.first.share", "a number from 0 to 1"),
        ("name", "text"),
        ("node.anything", ""),
        ("unknown", ""),
    ],
)
def test_types_and_bounds_in_words(key: str, words: str) -> None:
    assert kind_words(Outer, key) == words


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
    by_size = {"Views", "PlaneViews", "VolumeViews"}  # of which ``ViewSpec`` chooses
    assert {each.__name__ for each in classes} - {"Distortion", "Geometry", *by_size} <= REGISTERED.keys()


def test_a_registered_name_is_that_of_its_class() -> None:
    assert [imported("key", name).__name__ for name in REGISTERED] == [*REGISTERED]
