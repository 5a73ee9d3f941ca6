"""Every loader gives the pictures of a plain reference, in the same order, for any ranks and from any step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from data.loaders.backends import build, parameters
from data.loaders.test_cpu import slow_batch

from dira_scale.data.batch import Batch
from dira_scale.data.manifest import ShardedDataset
from dira_scale.data.order import EvalOrder, Order
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError

SPEC = ViewSpec(size=32)
COUNT, BATCH, STEPS = 24, 8, 7
# Mean absolute difference in units of the range, of 8-bit pixels: the resampling filters' roundings; for JPEG also the
# decoders' (they may differ by a level) and scaled decoding.
BOUNDS = {"png": 0.5 / 255, "jp2": 0.5 / 255, "npy": 0.5 / 255, "jpg": 1.0 / 255}
Make = Callable[..., ShardedDataset]


@pytest.fixture
def images(radiograph: Callable[..., np.ndarray]) -> list[np.ndarray]:
    return [radiograph(90 + 7 * (i % 5), 120 - 9 * (i % 4), 8, 1, seed=i) for i in range(COUNT)]


@pytest.fixture
def arguments(make_dataset: Make, images: list[np.ndarray]) -> dict[str, Any]:
    order = Order((COUNT,), seed=5, batch=BATCH)
    return {"datasets": [make_dataset(images, "jpg")], "split": "train", "order": order, "views": SPEC, "seed": 3}


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.index, b.index) and all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))


# DALI decodes by itself, the others as the CPU loader, whose codecs its own tests go through.
PICTURES = [*(("dali", codec) for codec in BOUNDS), ("threads", "png"), ("stream", "jp2"), ("cpu", "jpg"),
            pytest.param("helper", "npy", marks=pytest.mark.system)]  # fmt: skip


@pytest.mark.parametrize(("name", "codec"), PICTURES)
def test_pictures_are_those_of_the_definition(
    make_dataset: Make, images: list[np.ndarray], name: str, codec: str
) -> None:
    order = Order((COUNT,), seed=5, batch=BATCH)
    dataset = make_dataset(images, codec)
    if (name, codec) == ("dali", "npy"):
        with pytest.raises(UserError, match=r"does not read codec npy: use data.loader=cpu"):
            build(name, datasets=[dataset], split="train", order=order, views=SPEC, seed=3)
        return
    loader = build(name, datasets=[dataset], split="train", order=order, views=SPEC, seed=3)
    for step, batch in zip(range(2), loader.iterate(0, 2), strict=True):
        assert batch.index.tolist() == order.batch_at(step).index.tolist()
        assert batch.labels is not None and batch.labels[:, 0].tolist() == batch.index.tolist()
        scaled = batch.to("cpu").views
        for view, expected in zip(scaled, slow_batch(images, order, step, SPEC, seed=3), strict=True):
            error = np.abs(view[:, 0].numpy() - expected / 255).mean((1, 2))
            assert error.max() < BOUNDS[codec]


@pytest.mark.parametrize("name", parameters())
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
                assert torch.equal(batch.index, expected.index[own])
                assert all(torch.equal(x, y[own]) for x, y in zip(batch.views, expected.views, strict=True))
                assert all(torch.equal(x, y[own]) for x, y in zip(batch.flips, expected.flips, strict=True))


@pytest.mark.parametrize("name", parameters())
def test_reading_ahead_is_no_state(arguments: dict[str, Any], name: str) -> None:
    """An iterator closed early, and a second one, give what a first one gives."""
    loader = build(name, **arguments)
    first = loader.iterate(0, STEPS)
    seen = [next(first), next(first)]
    first.close()
    assert all(same(a, b) for a, b in zip(seen, loader.iterate(0, 2), strict=True))


@pytest.mark.parametrize("name", parameters())
def test_evaluation_sees_each_sample_once_with_the_same_views(arguments: dict[str, Any], name: str) -> None:
    """The last batch has two samples: two of four ranks get none."""
    given = arguments | {"order": EvalOrder(COUNT, 11), "fixed_epoch": 0}
    whole = list(build(name, **given).iterate(0, 3))
    assert torch.cat([batch.index for batch in whole]).tolist() == list(range(COUNT))
    parts = [list(build(name, **given, rank=rank, world=4).iterate(0, 3)) for rank in range(4)]
    for step, batch in enumerate(whole):
        assert torch.equal(torch.cat([part[step].views[0] for part in parts]), batch.views[0])
    assert min(len(part[2].index) for part in parts) == 0
