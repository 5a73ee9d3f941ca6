"""The shuffle of keys in blocks: against its definition written out, and the leak against counting pairs."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from train.methods.tiny import dira, method

from dira_scale.train.methods.method import Method
from dira_scale.train.methods.moco import MoCo
from dira_scale.train.methods.shuffle import leak, leak_line, permutation, transposition
from dira_scale.train.models import norm


class Wrapper(Method):
    """A method of a user's own, which says nothing of its identity."""

    def __init__(self, base: Method) -> None:
        super().__init__(base.views, {"di": 1.0})
        self.base = base


SIZES = st.integers(1, 40), st.integers(2, 40)  # groups, images of a group


@given(*SIZES)
def test_sample_s_of_group_j_goes_to_group_j_plus_s_of_its_block(groups: int, size: int) -> None:
    shuffled = transposition(groups * size, groups).tolist()
    assert sorted(shuffled) == list(range(groups * size))
    for j in range(groups):
        first = j - j % 8
        block = min(8, groups - first)
        for s in range(size):
            target = first + (j - first + s) % block
            assert shuffled[target * size + s] == j * size + s


@given(*SIZES)
def test_the_leak_is_the_share_of_companions_that_are_met_again(groups: int, size: int) -> None:
    order = transposition(groups * size, groups)
    group = np.arange(groups * size) // size
    where = np.empty_like(group)
    where[order] = group  # of each image, its group among the shuffled
    same = (group[:, None] == group) & (where[:, None] == where)
    expected = (same.sum() - len(group)) / (len(group) * (size - 1))
    assert leak("blocks", groups * size, groups) == pytest.approx(expected)


def test_the_leak_of_a_permuted_batch_is_its_mean() -> None:
    group, shares = np.arange(64) // 16, []
    for step in range(300):
        where = np.empty_like(group)
        where[permutation(64, step, 0)] = group
        same = (group[:, None] == group) & (where[:, None] == where)
        shares.append((same.sum() - 64) / (64 * 15))
    assert leak("batch", 64, 4) == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / 300**0.5)
    assert leak("batch", 64, 1) == leak("blocks", 64, 1) == 1


@pytest.mark.parametrize(
    ("batch", "groups", "words"),
    [
        (256, 4, "of 256 images in 4 BatchNorm groups, a query and its key share 23.8% of their 63 companions$"),
        (32, 2, "46.7% of their 15 companions: above 30%, .*; with model.bn_groups=4, groups of 8, it is 14.3%$"),
        (14, 2, "of 8 images or more need a larger data.batch$"),
        (9 * 32, 9, "19.7% .*, 100.0% in the last block, of 1 group: above 30%"),  # which is not shuffled
        (12 * 64, 12, "15.3% of their 63 companions, 23.8% in the last block, of 4 groups$"),
    ],
)
def test_the_line_warns_above_a_third_and_says_what_is_better(batch: int, groups: int, words: str) -> None:
    assert re.search(words, leak_line("blocks", batch, groups))


def test_only_runs_that_shuffle_in_blocks_have_another_identity() -> None:
    blocks, batch, plain = (method(MoCo, groups=n, shuffle=k) for n, k in ((2, "blocks"), (2, "batch"), (1, "blocks")))
    assert blocks.identity(2, {"di"}) == {"shuffle_version": 2}
    assert blocks.identity(1, {"di"}) == batch.identity(2, {"di"}) == plain.identity(2, {"di"}) == {}  # no BatchNorm
    moco, simsiam = (norm.convert(dira(base)) for base in ("moco", "simsiam"))
    assert moco.identity(2, {"di", "re"}) == blocks.identity(2, {"di"}) and simsiam.identity(2, {"di"}) == {}
    assert moco.identity(2, {"re", "ad"}) == {} == dict.fromkeys(moco.remarks(32, 2, {"re"}))  # its base idles
    assert Wrapper(moco).identity(2, {"di"}) == moco.identity(2, {"di"})
