"""Schemas: bounds are checked when an object is made, places are found, types and bounds are said in words."""

import inspect
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from omegaconf import MISSING

from dira_scale.base.arguments import Above, ArgumentError, AtLeast, Bound, Within, check_arguments, converted, kinds_of
from dira_scale.base.config import registry
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
    assert path_keys(Outer) == {"inputs": PathKind.SEVERAL, "node": PathKind.CONSTRUCTED, "inner.folder": PathKind.ONE}
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


# Paths that configurations named before the wings, and what lay beside them, from the history of this repository.
PATHS = {
    "data.distort.corruptions.Affine": "Affine", "data.views.ViewSpec": "ViewSpec", "methods.moco.MoCo": "MoCo",
    "evaluation.finetune.config.LabelTask": "LabelTask", "ingest.sources.brats.Brats": "Brats",
    "ingest.sources.luna16_candidates.Luna16Candidates": "Luna16Candidates", "models.unet.TimmUNet": "TimmUNet",
    "methods.pcrl_released.PCRLReleased": "PCRLReleased", "models.volume.architecture.UNet3D": "UNet3D",
    "data.manifest.ShardedDataset": "dira_scale.dataset.manifest.ShardedDataset",
    "data.tar.index": "dira_scale.dataset.manifest.tar.index", "forecast.config.Plan": "dira_scale.train.planned.Plan",
    "training.blueprint.Blueprint": "dira_scale.train.blueprint.Blueprint",
}  # fmt: skip


def test_a_path_of_before_the_wings_is_refused_with_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, now in PATHS.items():
        with pytest.raises(UserError, match=f"^key: dira_scale.{path} is {re.escape(now)} now: write that$"):
            imported("key", f"dira_scale.{path}")
    package = Path(registry.__file__).parents[2]
    places = {Path(package, *name.split(".")) for name in registry._MOVED}
    assert not any(place.exists() or place.with_suffix(".py").exists() for place in places)
    places = {Path(package, *name.split(".")) for name in registry._MOVED.values()}
    assert all(place.exists() or place.with_suffix(".py").exists() for place in places)
    (tmp_path / "my_methods.py").write_text("from dira_scale.models.unet import UNet\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"No module named 'dira_scale.models': it is dira_scale.train.models now$"):
        imported("key", "my_methods.Mine")


def test_all_that_views_may_name_is_registered() -> None:
    classes = [value for module in (views, corruptions) for value in vars(module).values() if is_dataclass(value)]
    by_size = {"Views", "PlaneViews", "VolumeViews"}  # of which ``ViewSpec`` chooses
    assert {each.__name__ for each in classes} - {"Distortion", "Geometry", *by_size} <= REGISTERED.keys()


def test_a_registered_name_is_that_of_its_class() -> None:
    assert [imported("key", name).__name__ for name in REGISTERED] == [*REGISTERED]


def declared(kind: Any) -> bool:
    """Whether a kind has a bound or choices."""
    return get_origin(kind) is Literal or any(isinstance(part, Bound) or declared(part) for part in get_args(kind))


def refused(kind: Any) -> Any:
    for value in (-1, 1e9, 0, math.nan, "no such", [], [-1]):
        try:
            converted(kind, value, "x")
        except ArgumentError:
            return value
    raise AssertionError(kind)


@pytest.mark.parametrize("name", REGISTERED)
def test_every_registered_class_holds_its_declared_bounds(name: str) -> None:
    """So no test of its own says so again."""
    kind, size = imported("key", name), views.ViewSpec(size=64)
    parameters = [one for one in inspect.signature(kind).parameters.values() if one.kind is not one.VAR_KEYWORD]
    given = {"views": size, "classes": 2}
    needed = {one.name: given.get(one.name, "any") for one in parameters if one.default is one.empty}
    wrong = {argument: refused(of) for argument, of in kinds_of(kind).items() if declared(of)}
    for argument in wrong.keys() & {one.name for one in parameters}:
        with pytest.raises(ArgumentError, match=rf"^{argument}\b"):
            if ".sources." in kind.__module__:  # whose arguments the border holds, before it constructs them
                check_arguments(kind, {argument: wrong[argument]})
            else:
                kind(**needed | {argument: wrong[argument]})
