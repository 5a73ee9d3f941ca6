"""Requests drawn together for several steps, against the views drawn for each step alone."""

import numpy as np
import pytest

from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.requests import TOGETHER, Requests
from dira_scale.train.data.samples import Samples
from dira_scale.train.data.views import Geometry, ViewSpec, draw

ROWS = 10
SPEC = ViewSpec(size=16, rotation=10, orientations=2)


@pytest.fixture
def samples(make_dataset):
    sizes = np.random.default_rng(0).integers(20, 50, (ROWS, 2))
    return Samples([make_dataset([np.zeros(size, np.uint8) for size in sizes])], "train")


def arrays(drawn):
    return [np.asarray(each) for each in (vars(drawn) if isinstance(drawn, Geometry) else drawn.tensors()).values()]


@pytest.mark.parametrize("fixed_epoch", [None, 3])
@pytest.mark.parametrize(
    ("order", "start", "stop"),
    [
        (Order((ROWS,), seed=1, batch=4), 1, 90),  # several epochs, and more samples than are drawn together
        (Order((ROWS,), seed=1, batch=8, remainder="wrap"), 0, 5),
        (Order((ROWS,), seed=1, batch=6 * TOGETHER, weights=(200.0,)), 0, 1),  # a step larger than that
        (EvalOrder(ROWS, 4), 0, 3),
        (EvalOrder(ROWS, 9), 0, 2),  # no sample for the first rank in the last step
    ],
)
def test_steps_drawn_together_are_those_drawn_alone(samples, order, start, stop, fixed_epoch):
    world = 2
    requests = Requests(samples, order, SPEC, seed=7, rank=0, world=world, fixed_epoch=fixed_epoch)
    found = list(requests.of(range(start, stop)))
    assert [request.step for request in found] == list(range(start, stop))
    for request in found:
        positions = order.batch_at(request.step, 0, world)
        epoch, index = positions.epoch if fixed_epoch is None else fixed_epoch, positions.index
        assert request.epoch == epoch
        np.testing.assert_array_equal(request.index, index)
        sides = samples.column("height", index), samples.column("width", index)
        for view in range(SPEC.count):
            np.testing.assert_array_equal(request.images[view], index)
            alone = draw(SPEC, 7, epoch, index, positions.occurrence, view, *sides)
            for expected, drawn in zip(alone, (request.geometries[view], request.distortions[view]), strict=True):
                for a, b in zip(arrays(expected), arrays(drawn), strict=True):
                    np.testing.assert_array_equal(a, b)


def test_no_step_beyond_the_last_is_asked_for(samples):
    requests = Requests(samples, EvalOrder(ROWS, 4), SPEC, seed=0)  # refuses steps from 3 on
    assert len(list(requests.of(range(3)))) == 3 and list(requests.of(range(3, 3))) == []
    assert [request.step for request in requests.of(range(0, 3, 2))] == [0, 2]
