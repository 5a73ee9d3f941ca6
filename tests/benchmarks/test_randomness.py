"""The measures of an order's randomness: against brute force, and on orders whose figures are known."""

import numpy as np
import pytest

from benchmarks.randomness import _variance, measure
from dira_scale.data.order import Order


def test_the_variance_is_that_of_drawn_classes() -> None:
    """20,000 draws of the shards' classes."""
    of_all = np.array([0.4, 0.3, 0.2, 0.1])
    shards = np.array([0, 0, 0, 1, 3, 3])
    classes = np.random.default_rng(0).integers(0, 2, (20_000, 4))
    drawn = np.mean((classes[:, shards].mean(1) - classes @ of_all) ** 2)
    single = np.mean(((classes - (classes @ of_all)[:, None]) ** 2) @ of_all)  # of one image drawn at random
    assert _variance(shards, of_all) == pytest.approx(drawn / (single / len(shards)), rel=0.03)


def test_a_full_shuffle_and_whole_shards() -> None:
    full = measure(Order((8192,), seed=0, batch=64), shard=64, near=16)
    assert full.spread == pytest.approx(1, abs=0.1) and full.drift == pytest.approx(1, abs=0.2)
    assert full.relatives < 0.1 and full.shards > 120
    none = measure(Order((8192,), seed=0, batch=64, lanes=1, block=64), shard=64, near=16)
    assert none.shards == 16 and none.relatives == 1  # a batch is a shard
    assert none.spread == pytest.approx(64) and none.drift == pytest.approx(64 * (1 - 16 / 128) / (1 - 1 / 128))
