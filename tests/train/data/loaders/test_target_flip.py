"""Whether the restoration target is mirrored with its input, on real pixels from the shard to the method."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dira_scale.pretrain.objective import Objective
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.cpu import CpuLoader
from dira_scale.train.data.order import Order
from dira_scale.train.data.views import Blur, Jitter, ViewSpec
from dira_scale.train.distributed.world import World
from dira_scale.train.methods.method import Terms

PLAIN = ViewSpec(size=32, jitter=Jitter(p=0), blur=Blur(p=0))
TERMS = ("di",)  # no cutout, so that the input is the crop, perhaps mirrored


def load(dataset, spec):
    """A batch of 8 on its device, and the (clean, distorted) views that a method is given of it."""
    batch = next(
        CpuLoader(LoaderSpec([dataset], "train", Order((10,), seed=0, batch=8), spec, seed=3)).iterate(0, 1)
    ).to("cpu")
    world = World(SimpleNamespace(device=torch.device("cpu"), num_processes=1, process_index=0), "fp32")
    objective = Objective({}, SimpleNamespace(), spec, world)
    given = []
    objective.forward(lambda *views: given.extend(views[:2]) or Terms({}), batch, objective.distorted(batch, TERMS))
    return batch, *given


@pytest.fixture
def dataset(make_dataset, radiograph):
    return make_dataset([radiograph(60 + i, 80 - i, 8, 1, seed=i) for i in range(10)])


def test_released_targets_are_the_crops_before_mirroring(dataset):
    _, unflipped, _ = load(dataset, replace(PLAIN, flip=0.0))
    batch, targets, inputs = load(dataset, replace(PLAIN, target_flip="released"))
    for target, given, crop, flips in zip(targets, inputs, unflipped, batch.flips, strict=True):
        assert torch.equal(target, crop)
        assert 0 < int(flips.sum()) < 8
        for i, flip in enumerate(flips[:, 1].tolist()):
            mirrored = np.ascontiguousarray(crop[i].numpy()[..., ::-1])
            np.testing.assert_array_equal(given[i].numpy(), mirrored if flip else crop[i].numpy())
            assert not np.array_equal(mirrored, crop[i].numpy())
    half = batch.split(2)[1]
    assert torch.equal(half.flips[1], batch.flips[1][4:])


def test_by_default_the_target_is_mirrored_with_its_input(dataset):
    batch, targets, inputs = load(dataset, PLAIN)
    assert any(bool(flips.any()) for flips in batch.flips)
    for target, given, view in zip(targets, inputs, batch.views, strict=True):
        assert torch.equal(target, view) and torch.equal(given, view)
