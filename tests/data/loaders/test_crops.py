"""Views of several sizes: each loader delivers of every kind of crops what it delivers of that kind alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.loaders.backends import build, parameters
from data.volumes import make, random_volumes, spec

from dira_scale.data.batch import Batch
from dira_scale.data.distort import build as build_distort
from dira_scale.data.loaders import LoaderSpec
from dira_scale.data.loaders.cpu import CpuLoader
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.order import Order
from dira_scale.data.views import Blur, ViewSpec
from dira_scale.errors import UserError
from dira_scale.training.shapes import ViewShapes

IMAGES = ViewSpec(
    size=24, crops=({"count": 2}, {"size": 16, "count": 3, "scale": (0.05, 0.25)}, {"count": 1, "blur": Blur(p=1.0)})
)
VOLUMES = spec(16, 12, 8, crops=({"count": 2}, {"size": (8, 8, 8), "count": 2, "extents": ((6, 8, 8),), "turns": 0.5}))


def alone(views: ViewSpec, view: int) -> ViewSpec:
    """Views of the kind of number ``view`` only, with the same numbers."""
    return replace(views.each[view], count=views.count)


def check(views: ViewSpec, load: Callable[[ViewSpec], list[Batch]]) -> None:
    batches = load(views)
    assert [view.shape[2:] for view in batches[0].views] == [of_view.sides for of_view in views.each]
    for view in range(views.count):
        for batch, expected in zip(batches, load(alone(views, view)), strict=True):
            assert torch.equal(batch.index, expected.index)
            assert torch.equal(batch.views[view], expected.views[view])
            assert torch.equal(batch.flips[view], expected.flips[view])
            for name, values in expected.distortions[view].tensors().items():
                assert torch.equal(batch.distortions[view].tensors()[name], values)


@pytest.mark.parametrize("name", parameters())
def test_images(make_dataset: Callable[..., ShardedDataset], images: Callable[..., Any], name: str) -> None:
    dataset = make_dataset(images(16))

    def load(views: ViewSpec) -> list[Batch]:
        loader = build(name, datasets=[dataset], split="train", order=Order((10,), 1, 4), views=views, seed=3)
        return [*loader.iterate(1, 3)]

    check(IMAGES, load)


@pytest.mark.parametrize("codec", ["npy", "b2nd"])
def test_volumes(tmp_path: Path, codec: str) -> None:
    dataset = make(tmp_path / "toy", random_volumes(6), codec)

    def load(views: ViewSpec) -> list[Batch]:
        order = Order((6,), 1, 2)
        return [*CpuLoader(LoaderSpec([dataset], "train", order, views, 3)).iterate(0, 2)]

    check(VOLUMES, load)
    larger = replace(VOLUMES, crops=({}, {"extents": ((8, 90, 90),)}))
    with pytest.raises(UserError, match="fewer than a crop of 8 x 90 x 90"):
        load(larger)


def test_a_jpeg_is_decoded_as_large_as_its_most_demanding_crop_needs(
    make_dataset: Callable[..., ShardedDataset], radiograph: Callable[..., np.ndarray]
) -> None:
    """So a small view beside a large one comes from more pixels than alone: it differs by a level or two."""
    dataset = make_dataset([radiograph(400, 400, seed=i) for i in range(4)], "jpg")
    views = ViewSpec(size=96, count=1, scale=(0.8, 1.0), crops=({}, {"size": 16}))

    def load(views: ViewSpec) -> Batch:
        return next(CpuLoader(LoaderSpec([dataset], "train", Order((4,), 1, 4), views, 3)).iterate(0, 1))

    small, same = load(views).views[1], load(alone(views, 1)).views[1]
    difference = (small.float() - same.float()).abs()
    assert 0 < difference.max() < 9 and difference.mean() < 0.7


def test_masks_of_several_sizes_are_refused() -> None:
    order: Any = None
    with pytest.raises(UserError, match=r"views.crops has several sizes, and masks are of views of one size"):
        LoaderSpec([], "train", order, IMAGES, 0, masks=True)


@pytest.mark.parametrize("views", [IMAGES, VOLUMES])
def test_shapes_are_those_of_a_loaders_batch(views: ViewSpec) -> None:
    """And each view is distorted by the module of its kind."""
    batch = ViewShapes(views).batch(3)
    assert [view.shape for view in batch.views] == [(3, 1, *of_view.sides) for of_view in views.each]
    assert len(batch.distortions) == len(batch.flips) == batch.low.shape[1] == views.count
    for view, params, of_view in zip(batch.to("cpu").views, batch.distortions, views.each, strict=True):
        assert build_distort(of_view)(view.nan_to_num(), params).shape == view.shape
