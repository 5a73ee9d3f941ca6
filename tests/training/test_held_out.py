"""Evaluation batches dealt to ranks: every sample counts once, on any number of them."""

import numpy as np
import pytest

from dira_scale.training.held_out import DistributedEvalOrder


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(("size", "batch"), [(12, 5), (64, 64), (65, 64), (3, 8)])
def test_every_sample_counts_once_and_all_ranks_do_as_much(size: int, batch: int, ranks: int) -> None:
    whole = -(-size // batch)
    seen: list[int] = []
    shares = [DistributedEvalOrder(size, batch, whole, rank, ranks) for rank in range(ranks)]
    assert len({share.steps for share in shares}) == 1
    for share in shares:
        for step in range(share.steps):
            positions = share.batch_at(step)
            assert len(positions.index) > 0
            if share.counts(step):
                seen.extend(positions.index.tolist())
    assert sorted(seen) == list(range(size))


def test_a_limit_takes_the_first_batches() -> None:
    shares = [DistributedEvalOrder(100, 10, 3, rank, 2) for rank in range(2)]
    seen = [s.batch_at(k).index for s in shares for k in range(s.steps) if s.counts(k)]
    assert sorted(np.concatenate(seen)) == list(range(30))
