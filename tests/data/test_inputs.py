"""Evaluation batches dealt to ranks: every sample counts once, on any number of them."""

import numpy as np
import pytest

from dira_scale.data.inputs import Dealt, _paths
from dira_scale.errors import UserError


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("size", "batch"), [(12, 5), (64, 64), (65, 64), (3, 8)])
def test_every_sample_counts_once_and_all_ranks_do_as_much(size: int, batch: int, ranks: int) -> None:
    whole = -(-size // batch)
    seen: list[int] = []
    shares = [Dealt(size, batch, whole, rank, ranks) for rank in range(ranks)]
    assert len({share.steps for share in shares}) == 1
    for share in shares:
        for step in range(share.steps):
            positions = share.batch_at(step)
            assert len(positions.index) > 0
            if share.counts(step):
                seen.extend(positions.index.tolist())
    assert sorted(seen) == list(range(size))


def test_a_limit_takes_the_first_batches() -> None:
    shares = [Dealt(100, 10, 3, rank, 2) for rank in range(2)]
    seen = [s.batch_at(k).index for s in shares for k in range(s.steps) if s.counts(k)]
    assert sorted(np.concatenate(seen)) == list(range(30))


@pytest.mark.parametrize(
    ("shards", "expected"),
    [("a", {"a": 1.0}), (["a", "b"], {"a": 1.0, "b": 1.0}), ({"a": 2, "b": 0.5}, {"a": 2, "b": 0.5})],
)
def test_shards_are_one_several_or_weighted(shards: object, expected: dict[str, float]) -> None:
    assert _paths(shards) == expected


@pytest.mark.parametrize("shards", [{"a": 0}, {"a": "much"}, 7])
def test_other_shards_are_refused_by_key(shards: object) -> None:
    with pytest.raises(UserError, match=r"data\.shards="):
        _paths(shards)
