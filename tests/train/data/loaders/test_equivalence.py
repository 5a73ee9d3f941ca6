"""Every loader gives the pictures of a plain reference, in the same order, for any ranks and from any step."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train.data.loaders.backends import QUICK, build
from train.data.loaders.test_cpu import slow_batch
from train.data.volumes import alone, make, random_volumes, spec

from dira_scale.base.arguments import ArgumentError
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.batch import Batch
from dira_scale.train.data.distort import build as build_distort
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.views import Blur, ViewSpec
from dira_scale.train.shapes import ViewShapes

SPEC = ViewSpec(size=32)
COUNT, BATCH, STEPS = 24, 8, 7
# Mean absolute difference in units of the range, of 8-bit pixels: the resampling filters' roundings; for JPEG also the
# decoders' (they may differ by a level) and scaled decoding.
BOUNDS = {"png": 0.5 / 255, "jp2": 0.5 / 255, "npy": 0.5 / 255, "jpg": 1.0 / 255}
Make = Callable[..., ShardedDataset]


@pytest.fixture
def pictures(radiograph: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [radiograph(90 + 7 * (i % 5), 120 - 9 * (i % 4), 8, 1, seed=i) for i in range(COUNT)]


@pytest.fixture
def arguments(make_dataset: Make, pictures: list[np.ndarray]) -> dict[str, Any]:
    """The second view is of another image of the patient, where there is one."""
    order, patients = Order((COUNT,), seed=5, batch=BATCH), [f"p{i // 3}" for i in range(COUNT)]
    datasets, views = [make_dataset(pictures, "jpg", patients=patients)], replace(SPEC, pair="patient")
    return {"datasets": datasets, "split": "train", "order": order, "views": views, "seed": 3}


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.index, b.index) and all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))


# DALI decodes by itself, the others as the CPU loader, whose codecs its own tests go through.
PICTURES = [*(("dali", codec) for codec in BOUNDS), ("threads", "png"), ("stream", "jp2"), ("cpu", "jpg"),
            pytest.param("helper", "npy", marks=pytest.mark.system)]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), PICTURES)
def test_pictures_are_those_of_the_definition(
    make_dataset: Make, pictures: list[np.ndarray], name: str, codec: str
) -> None:
    order = Order((COUNT,), seed=5, batch=BATCH)
    dataset = make_dataset(pictures, codec)
    if (name, codec) == ("dali", "npy"):
        with pytest.raises(UserError, match="does not read codec npy"):
            build(name, datasets=[dataset], split="train", order=order, views=SPEC, seed=3)
        return
    loader = build(name, datasets=[dataset], split="train", order=order, views=SPEC, seed=3)
    for step, batch in zip(range(2), loader.iterate(0, 2), strict=True):
        assert batch.index.tolist() == order.batch_at(step).index.tolist()
        assert batch.labels is not None and batch.labels[:, 0].tolist() == batch.index.tolist()
        scaled = batch.to("cpu").views
        for view, expected in zip(scaled, slow_batch(pictures, order, step, SPEC, seed=3), strict=True):
            error = np.abs(view[:, 0].numpy() - expected / 255).mean((1, 2))
            assert error.max() < BOUNDS[codec]


@pytest.mark.parametrize("name", QUICK)
def test_ranks_and_a_resume_change_nothing(arguments: dict[str, Any], name: str) -> None:
    """One process from the start; two from a random step on; four from a later one."""
    whole = list(build(name, **arguments).iterate(0, STEPS))
    start = int(np.random.default_rng().integers(1, STEPS - 1))
    for world, first in ((2, start), (4, STEPS - 1)):
        for rank in range(world):
            loader = build(name, **arguments, rank=rank, world=world)
            own = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
            for step, batch in zip(range(first, STEPS), loader.iterate(first, STEPS), strict=True):
                expected = whole[step]
                assert batch.step == step and batch.epoch == expected.epoch, f"start {start}"
                assert torch.equal(batch.index, expected.index[own]) and torch.equal(batch.images, expected.images[own])
                assert all(torch.equal(x, y[own]) for x, y in zip(batch.views, expected.views, strict=True))
                assert all(torch.equal(x, y[own]) for x, y in zip(batch.flips, expected.flips, strict=True))


@pytest.mark.parametrize("name", QUICK)
def test_reading_ahead_is_no_state(arguments: dict[str, Any], name: str) -> None:
    """An iterator closed early, and a second one, give what a first one gives."""
    loader = build(name, **arguments)
    first = loader.iterate(0, STEPS)
    seen = [next(first), next(first)]
    first.close()
    assert all(same(a, b) for a, b in zip(seen, loader.iterate(0, 2), strict=True))


@pytest.mark.parametrize("name", QUICK)
def test_evaluation_sees_each_sample_once_with_the_same_views(arguments: dict[str, Any], name: str) -> None:
    """The last batch has two samples: two of four ranks get none."""
    given = arguments | {"order": EvalOrder(COUNT, 11), "fixed_epoch": 0}
    whole = list(build(name, **given).iterate(0, 3))
    assert torch.cat([batch.index for batch in whole]).tolist() == list(range(COUNT))
    parts = [list(build(name, **given, rank=rank, world=4).iterate(0, 3)) for rank in range(4)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].views[0] for part in parts]), batch.views[0])
    assert min(len(part[2].index) for part in parts) == 0


# -- several kinds of crops: of each kind what is delivered of that kind alone

SEVERAL = ViewSpec(
    size=24, crops=({"count": 2}, {"size": 16, "count": 3, "scale": (0.05, 0.25)}, {"count": 1, "blur": Blur(p=1.0)})
)
SEVERAL_3D = spec(
    16, 12, 8, crops=({"count": 2}, {"size": (8, 8, 8), "count": 2, "extents": ((6, 8, 8),), "turns": 0.5})
)


def assert_alone(views: ViewSpec, load: Callable[[ViewSpec], list[Batch]]) -> None:
    batches = load(views)
    assert [view.shape[2:] for view in batches[0].views] == [of_view.sides for of_view in views.each]
    for view in range(views.count):
        for batch, expected in zip(batches, load(alone(views, view)), strict=True):
            assert torch.equal(batch.index, expected.index)
            assert torch.equal(batch.views[view], expected.views[view])
            assert torch.equal(batch.flips[view], expected.flips[view])
            for name, values in expected.distortions[view].tensors().items():
                assert torch.equal(batch.distortions[view].tensors()[name], values)


@pytest.mark.parametrize("name", QUICK)
def test_kinds_of_crops_of_images_are_those_of_each_alone(
    make_dataset: Callable[..., ShardedDataset], images: Callable[..., Any], name: str
) -> None:
    dataset = make_dataset(images(16))

    def load(views: ViewSpec) -> list[Batch]:
        loader = build(name, datasets=[dataset], split="train", order=Order((10,), 1, 4), views=views, seed=3)
        return [*loader.iterate(1, 3)]

    assert_alone(SEVERAL, load)


@pytest.mark.parametrize("codec", ["npy", "b2nd"])
def test_kinds_of_crops_of_volumes_are_those_of_each_alone(tmp_path: Path, codec: str) -> None:
    dataset = make(tmp_path / "toy", random_volumes(6), codec)

    def load(views: ViewSpec) -> list[Batch]:
        order = Order((6,), 1, 2)
        return [*CpuLoader(LoaderSpec([dataset], "train", order, views, 3)).iterate(0, 2)]

    assert_alone(SEVERAL_3D, load)
    larger = replace(SEVERAL_3D, crops=({}, {"extents": ((8, 90, 90),)}))
    with pytest.raises(ArgumentError, match="fewer than a crop of 8 x 90 x 90"):
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
    with pytest.raises(ArgumentError, match="views: expected crops of one size, as masks are"):
        LoaderSpec([], "train", order, SEVERAL, 0, masks=True)


@pytest.mark.parametrize("views", [SEVERAL, SEVERAL_3D])
def test_shapes_are_those_of_a_loaders_batch(views: ViewSpec) -> None:
    """And each view is distorted by the module of its kind."""
    batch = ViewShapes(views).batch(3)
    assert [view.shape for view in batch.views] == [(3, 1, *of_view.sides) for of_view in views.each]
    assert len(batch.distortions) == len(batch.flips) == batch.low.shape[1] == views.count
    for view, params, of_view in zip(batch.to("cpu").views, batch.distortions, views.each, strict=True):
        assert build_distort(of_view)(view.nan_to_num(), params).shape == view.shape
