"""``views.crops``: each view is that of its own kind of crops, whatever the others are."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from train.data.volumes import NONE, alone, spec

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.train.data.distort.corruptions import BlockMask
from dira_scale.train.data.views import Blur, Cutout, Jitter, SizedCrop, ViewSpec, draw
from dira_scale.train.methods import views_of

GLOBAL, LOCAL = {"count": 2, "scale": (0.25, 1.0)}, {"size": 24, "count": 3, "scale": (0.05, 0.25)}
CROPS = ViewSpec(size=48, crops=(GLOBAL, LOCAL | {"blur": {"p": 1.0}, "cutout": {"p": 0.0}}))
VOLUMES = spec(16, 16, 16, crops=({"count": 2}, {"size": (8, 8, 8), "count": 2, "extents": ((8, 6, 6),), "flip": 1.0}))
N = 4000


def drawn(views: ViewSpec, view: int) -> Iterator[np.ndarray]:
    index, sides = np.arange(N), [np.full(N, 200 + 10 * axis) for axis in range(views.dimensions)]
    geometry, distortion = draw(views, 5, 3, index, index % 2, view, *sides)
    yield from (geometry.box, geometry.flip)
    yield from (values.numpy() for values in distortion.tensors().values())


def equal(views: ViewSpec, other: ViewSpec, view: int) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(drawn(views, view), drawn(other, view), strict=True))


@pytest.mark.parametrize("plain", [ViewSpec(size=48), spec(16, 16, 16, turns=0.5), spec(16, 16, 16, iou=0.3)])
def test_one_kind_is_the_same_as_no_list(plain: ViewSpec) -> None:
    assert replace(plain, crops=({},)) == replace(plain, crops=({"count": 2, "size": plain.size},)) == plain
    other = replace(plain, crops=({"count": 2, "flip": 0.9, "jitter": Jitter(p=0.1)},))
    assert other == replace(plain, flip=0.9, jitter=Jitter(p=0.1)) and not equal(other, plain, 0)


@pytest.mark.parametrize("views", [CROPS, VOLUMES])
def test_views_are_drawn_as_those_of_their_kind_alone(views: ViewSpec) -> None:
    """With the same numbers, which run through all kinds, and a blur in pixels of the first kind's."""
    assert len(views.each) == views.count
    for view in range(views.count):
        assert equal(views, alone(views, view), view)


def test_settings_of_a_kind_are_those_of_all_with_its_own_beside() -> None:
    first, second = CROPS.entries
    assert (first.blur, first.cutout) == (Blur(), Cutout())
    assert (second.blur, second.cutout) == (Blur(p=1.0), Cutout(p=0.0))
    assert ViewSpec(size=48, crops=({}, {"sized": {"p": 0.5}})).entries[1].sized == SizedCrop(p=0.5)
    assert (CROPS.count, CROPS.sides, CROPS.one_size) == (5, (48, 48), False)
    again = replace(CROPS, target_flip="released")
    assert again.count == 5 and {entry.target_flip for entry in again.entries} == {"released"}
    assert replace(CROPS, crops=(GLOBAL, LOCAL | {"size": 48})).one_size


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"crops": (96,)}, r"^crops\[0\]: expected a mapping, NAME: VALUE, got 96"),
        ({"crops": ({}, {"siz": 24})}, r"^crops\[1\].siz: expected only size, count.*mean 'size'"),
        ({"crops": ({}, {"blur": {"q": 1}})}, r"^crops\[1\].blur.q: expected only sigma, p"),
        ({"crops": ({}, {"blur": {"sigma": [2, 1]}})}, r"^crops\[1\].blur.sigma: .*ascending order, got \[2, 1\]"),
        ({"crops": ({}, {"size": 4})}, r"^crops\[1\].size: expected a whole number of at least 8"),
        ({"crops": ({"size": 24}, {})}, r"^crops\[0\].size: expected 48, .*the network is made .*of 24, got 24"),
        ({"crops": ({}, {"count": 255})}, r"^crops: expected at most 256 views of a sample, not 257"),
        ({"crops": ({}, {"size": 96}), "corruptions": {"x": BlockMask(36)}}, r"^corruptions.x.block: .*48 x 48"),
        ({"size": (16, 16, 16), **NONE, "iou": 0.2, "crops": ({}, {})}, "^iou: expected none: it is of two crops"),
    ],
)
def test_what_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ViewSpec(**{"size": 48} | given)


def test_the_key_of_the_configuration() -> None:
    """Read as typed, values checked by their kind."""
    words = ["experiment=small", "data.shards=any"]
    typed = "views.crops=[{count: 2}, {size: 32, count: 4, scale: [0.05, 0.25], blur: {p: 0.1}}]"
    plain, config = compose("pretrain", words), compose("pretrain", [*words, typed])
    assert [view.sides for view in views_of(config).each] == 2 * [views_of(plain).sides] + 4 * [(32, 32)]
    assert [entry.blur.p for entry in views_of(config).entries] == [0.5, 0.1]
    for wrong, printed in (
        ("views.crops=[{count: two}]", r"^views.crops\[0\].count=two: expected a whole number"),
        ("views.crops=[{blur: {sigma: [2, 1]}}]", r"^views.crops\[0\].blur.sigma=\[2, 1\]: expected a list of 2"),
        ("views.blur.sigma=[2, 1]", r"^views.blur.sigma=\[2, 1\]: expected a list of 2 numbers"),
        ("data.size=[32,48]", r"^data.size=\[32, 48\]: expected .* 3 entries, \[depth, height, width\]"),
    ):
        with pytest.raises(UserError, match=printed):
            views_of(compose("pretrain", [*words, wrong]))
