"""Philox against its authors' published answers, and what the rest of the package relies on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dira_scale.train.data import random

# Random123 1.14, tests/kat_vectors: philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, answer):
    np.testing.assert_array_equal(random.philox(words(counter), words(key)), words(answer))


def test_philoxs_words_broadcast():
    counter = np.arange(5), np.array(7), np.arange(3)[:, None], np.array([[2**32 - 1]])
    expected = random.philox(np.broadcast_arrays(*counter), np.array([1, 2]))
    assert expected.shape == (3, 5, 4) and len(np.unique(expected)) == 60
    np.testing.assert_array_equal(random.philox(counter, np.array([1, 2])), expected)


def draw(seed=1, epoch=2, index=3, occurrence=4, view=0, n=8, stream=0):
    return random.uniform(seed, epoch, np.array([index]), np.array([occurrence]), view, n, stream)[0]


def test_every_part_of_the_counter_matters():
    variants = [
        draw(), draw(seed=2), draw(seed=1 + 2**32), draw(epoch=3), draw(index=4), draw(index=3 + 2**32),
        draw(occurrence=5), draw(view=1), draw(stream=1), draw(view=1, stream=1), draw(index=3 + 2**47),
    ]  # fmt: skip
    assert len(np.unique(np.concatenate(variants))) == 8 * len(variants)


def test_each_sample_may_have_its_own_epoch():
    index, epochs = np.array([3, 3, 9]), np.array([0, 2**32 - 1, 7])
    together = random.uniform(1, epochs, index, np.zeros(3, int), 0, 5, 0)
    for i in range(3):
        np.testing.assert_array_equal(together[i], draw(epoch=int(epochs[i]), index=index[i], occurrence=0, n=5))


def test_mix_is_splitmix64():
    """The first outputs of SplitMix64 from state 0 (Vigna's splitmix64.c): mix of multiples of the golden gamma."""
    states = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert random.mix(states).tolist() == expected


@given(st.integers(1, 400), st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection(n, key):
    assert sorted(random.permute(np.arange(n), n, key)) == list(range(n))


def test_permute_takes_a_size_and_a_key_for_each_element():
    n, key = np.array([5, 70, 1, 10**15]), np.array([3, 2**63, 0, 9], np.uint64)
    x = np.array([4, 69, 0, 10**15 - 1])
    together = random.permute(x, n, key)
    assert together.tolist() == [int(random.permute(x[i], int(n[i]), int(key[i]))) for i in range(4)]
    assert (together < n).all()


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 12])
def test_permute_is_uniform(n):
    """Over random keys each element goes to each place equally often."""
    keys = random.mix(np.arange(20000, dtype=np.uint64))
    image = random.permute(np.tile(np.arange(n), (len(keys), 1)), n, keys[:, None])
    counts = np.stack([np.bincount(image[:, i], minlength=n) for i in range(n)])
    expected = len(keys) / n
    statistic = ((counts - expected) ** 2 / expected).sum() * (n - 1) / n
    assert stats.chi2.sf(statistic, (n - 1) ** 2) > 1e-3
