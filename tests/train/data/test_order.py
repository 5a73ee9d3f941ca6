"""The order's promises, as properties over many sizes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dira_scale.base.arguments import ArgumentError
from dira_scale.train.data import random
from dira_scale.train.data.order import EvalOrder, Order


def promised(*strategies):
    """A test of a few examples of ``strategies``; with the full counts, of a thousand."""

    def decorate(check):
        @pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.torture)])
        def test(count):
            given(*strategies)(settings(max_examples=count, deadline=None)(check))()

        test.__doc__ = check.__doc__
        return test

    return decorate


def epoch_of(order: Order, epoch: int) -> np.ndarray:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([order.batch_at(step).index for step in steps])


@st.composite
def orders(draw, remainder=("drop", "wrap"), mixture=True):
    lanes = draw(st.sampled_from([1, 2, 4, 8]))
    batch = lanes * draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=3 if mixture else 1))
    weights = draw(st.none() | st.lists(st.sampled_from([0.5, 1.0, 1.7]), min_size=len(sizes), max_size=len(sizes)))
    if not mixture:
        weights = None
    remainder = draw(st.sampled_from(remainder))
    slots = [round(w * n) for w, n in zip(weights or [1.0] * len(sizes), sizes, strict=True)]
    if min(slots) < 1 or (sum(slots) < batch and remainder == "drop"):
        sizes = [size + 2 * batch for size in sizes]
    return Order(
        tuple(sizes),
        seed=draw(st.integers(0, 2**63)),
        batch=batch,
        weights=None if weights is None else tuple(weights),
        lanes=lanes,
        block=draw(st.integers(1, 9)),
        window=draw(st.integers(1, 4)),
        remainder=remainder,
    )


@promised(orders(remainder=["drop"], mixture=False), st.integers(0, 5))
def test_a_sample_comes_at_most_once_an_epoch_and_what_is_dropped_is_counted(order, epoch):
    samples = epoch_of(order, epoch)
    assert len(set(samples)) == len(samples) == order.steps_per_epoch * order.batch
    assert order.dropped == order.sizes[0] - len(samples) < order.batch


@promised(orders(remainder=["drop"], mixture=False), st.integers(0, 5))
def test_what_an_epoch_drops_the_next_one_uses(order, epoch):
    dropped = set(range(order.sizes[0])) - set(epoch_of(order, epoch))
    used = set(epoch_of(order, epoch + 1))
    if order.dropped <= len(used):
        assert dropped <= used
    else:
        assert used <= dropped


@promised(orders(remainder=["wrap"], mixture=False), st.integers(0, 5))
def test_wrapping_uses_all_and_tells_repetitions_apart(order, epoch):
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    batches = [order.batch_at(step) for step in steps]
    pairs = [pair for batch in batches for pair in zip(batch.index, batch.occurrence, strict=True)]
    counts = np.bincount([sample for sample, _ in pairs], minlength=order.sizes[0])
    assert order.dropped == 0 and counts.min() >= 1 and np.ptp(counts) <= 1
    assert sorted(pairs) == [(sample, i) for sample, count in enumerate(counts) for i in range(count)]


@promised(orders(), st.integers(0, 200))
def test_ranks_cut_the_same_batch(order, step):
    whole = order.batch_at(step)
    assert whole.epoch == step // order.steps_per_epoch
    for world in order.admissible_worlds():
        parts = [order.batch_at(step, rank, world) for rank in range(world)]
        assert {len(part.index) for part in parts} == {order.batch // world}
        np.testing.assert_array_equal(np.concatenate([part.index for part in parts]), whole.index)
        np.testing.assert_array_equal(np.concatenate([part.occurrence for part in parts]), whole.occurrence)


@promised(orders(), st.integers(0, 30))
def test_any_step_is_reached_at_once(order, step):
    """A new object asked for one late step gives what an old one gives on its way: there is no state."""
    for earlier in range(step):
        order.batch_at(earlier)
    np.testing.assert_array_equal(order.batch_at(step).index, replace(order).batch_at(step).index)


@promised(orders(), st.integers(1, 5))
def test_several_steps_at_once_are_each_of_them(order, epoch):
    """Also from one epoch to the next."""
    steps = range(epoch * order.steps_per_epoch - 1, epoch * order.steps_per_epoch + 2)
    for step, found in zip(steps, order.positions(steps), strict=True):
        alone = order.batch_at(step)
        assert found.epoch == alone.epoch
        np.testing.assert_array_equal(found.index, alone.index)
        np.testing.assert_array_equal(found.occurrence, alone.occurrence)


@promised(orders(mixture=False), st.integers(0, 3))
def test_blocks_stay_whole_and_lanes_are_consecutive(order, epoch):
    """Slow construction by lists: the endless line, its blocks, the lanes, their windows."""
    used, total = order.steps_per_epoch * order.batch, order.sizes[0]
    epoch_line = [(epoch * used + slot) % total for slot in range(used)]
    whole = used // order.block
    blocks = [epoch_line[i * order.block : (i + 1) * order.block] for i in range(whole)]
    shuffled = random.permute(np.arange(whole), whole, order._key("block", epoch)) if whole else []
    sequence = [x for i in shuffled for x in blocks[i]] + epoch_line[whole * order.block :]
    length, per_lane = used // order.lanes, order.batch // order.lanes
    lanes = [sequence[lane * length : (lane + 1) * length] for lane in range(order.lanes)]
    got = epoch_of(order, epoch).reshape(order.steps_per_epoch, order.lanes, per_lane)
    span = order.window * order.block
    for number, lane in enumerate(lanes):
        drawn = got[:, number].ravel().tolist()
        for start in range(0, length, span):  # windows hold the same samples, in another order
            assert sorted(drawn[start : start + span]) == sorted(lane[start : start + span])


def test_mixture_proportions():
    """Weights .5, 1 and 2 of 100, 50 and 20 rows: 50, 50 and 40 samples an epoch, evenly over the epochs."""
    order = Order((100, 50, 20), seed=3, batch=10, weights=(0.5, 1.0, 2.0))
    assert order.steps_per_epoch == 14
    counts = np.zeros(170, int)
    for epoch in range(4):
        samples = epoch_of(order, epoch)
        first, second, third = (
            samples[samples < 100],
            samples[(samples >= 100) & (samples < 150)],
            samples[samples > 149],
        )
        assert (len(first), len(second), len(third)) == (50, 50, 40)
        assert len(set(first)) == 50 and set(second) == set(range(100, 150))
        assert (np.bincount(third - 150) == 2).all()
        counts += np.bincount(samples, minlength=170)
        if epoch % 2:
            assert (counts[:100] == (epoch + 1) // 2).all()  # none comes back before all others were used
    occurrence = np.concatenate([order.batch_at(step).occurrence for step in range(14)])
    assert (occurrence == 1).sum() == 20 and occurrence.max() == 1
    assert set(epoch_of(order, 0)[epoch_of(order, 0) < 100]) != set(
        range(50)
    )  # not simply those that were written first


def test_batches_mix_the_datasets():
    order = Order((4000, 4000), seed=0, batch=64)
    shares = [(order.batch_at(step).index < 4000).mean() for step in range(order.steps_per_epoch)]
    assert abs(np.mean(shares) - 0.5) < 1e-9 and 0.03 < np.std(shares) < 0.1  # hypergeometric: .0625


def test_no_list_of_samples_is_made():
    order = Order((10**12, 10**8), seed=0, batch=256, weights=(1.0, 0.3), block=64, window=16, lanes=32)
    first, late = order.batch_at(0), order.batch_at(3 * order.steps_per_epoch + 12345, rank=3, world=4)
    assert len(first.index) == 256 and len(late.index) == 64 and late.epoch == 3
    assert late.index.min() >= 0 and late.index.max() < 10**12 + 10**8


BASE = Order((100, 61), seed=5, batch=8, weights=(1.0, 1.0), lanes=4, block=2, window=3, identity="abc")
CHANGES = {
    "sizes": (101, 61), "seed": 6, "batch": 16, "weights": (1.0, 0.9), "lanes": 8, "block": 3, "window": 4,
    "remainder": "wrap", "identity": "abd",
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_every_input_is_identity(name):
    changed = replace(BASE, **{name: CHANGES[name]})
    assert epoch_of(changed, 1).tolist() != epoch_of(BASE, 1).tolist()


def test_golden_order():
    """A change here is a change of every run's order: raise ORDER_VERSION."""
    plain = Order((1000,), seed=7, batch=8, identity="golden")
    assert plain.batch_at(0).index.tolist() == GOLDEN["plain, step 0"]
    assert plain.batch_at(1234).index.tolist() == GOLDEN["plain, step 1234"]
    assert BASE.batch_at(50).index.tolist() == GOLDEN["mixture, step 50"]
    assert replace(BASE, weights=(0.5, 2.5)).batch_at(30).index.tolist() == GOLDEN["weighted, step 30"]


GOLDEN = {
    "plain, step 0": [451, 638, 906, 731, 517, 973, 594, 362],
    "plain, step 1234": [685, 339, 64, 387, 285, 572, 618, 564],
    "mixture, step 50": [13, 127, 8, 31, 77, 50, 61, 69],
    "weighted, step 30": [136, 157, 142, 106, 41, 140, 63, 59],
}


@promised(st.integers(0, 50), st.integers(1, 16), st.integers(1, 8))
def test_evaluation_visits_each_sample_once(size, batch, world):
    order = EvalOrder(size, batch)
    parts = [[order.batch_at(step, rank, world) for rank in range(world)] for step in range(order.steps)]
    assert np.concatenate([[], *(p.index for step in parts for p in step)]).tolist() == list(range(size))
    for step in parts:
        lengths = [len(part.index) for part in step]
        assert max(lengths) - min(lengths) <= 1 and sum(lengths) <= batch
    assert sum(sum(len(p.index) for p in step) == batch for step in parts) == size // batch


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"batch": 12, "lanes": 5}, r"lanes: expected a divisor of .* 12: one of \[1, 2, 3, 4, 6, 12\]"),
        (
            {"batch": 101},
            "batch: expected 64 .*, or the remainder 'wrap': 100 samples do not fill one global batch of 101, got 101",
        ),
        ({"batch": 4, "weights": (1.0, 1.0)}, "weights: expected one for each of 1 datasets"),
        ({"batch": 4, "weights": (0.001,)}, "no sample"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, words):
    with pytest.raises(ArgumentError, match=words):
        Order((100,), 0, **arguments)


def test_ranks_that_do_not_divide_the_lanes_are_refused():
    order = Order((100,), 0, batch=12, lanes=6)
    assert order.admissible_worlds() == [1, 2, 3, 6]
    with pytest.raises(ArgumentError, match=r"that divides the 6 lanes .* \[1, 2, 3, 6\], got 4"):
        order.batch_at(0, 0, 4)
