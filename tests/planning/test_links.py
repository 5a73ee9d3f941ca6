import math

import numpy as np
import pytest

from dira_scale.planning.links import Links


def really_ring(count: int, ranks: int, bandwidth: float, latency: float) -> float:
    """Run the algorithm: chunks travel round the ring, are added up, then handed on; each message takes its time."""
    random = np.random.default_rng(0)
    values = random.integers(0, 100, (ranks, ranks, count // ranks // 8)).astype(float)  # [rank, chunk, words]
    total, clock = values.sum(0), np.zeros(ranks)
    for sent in range(2 * (ranks - 1)):
        chunks = [(rank - sent) % ranks for rank in range(ranks)]
        messages = [values[rank, chunks[rank]].copy() for rank in range(ranks)]
        arrivals = [clock[rank] + latency + messages[rank].nbytes / bandwidth for rank in range(ranks)]
        for rank in range(ranks):
            left = (rank - 1) % ranks
            own = values[rank, chunks[left]]
            own[:] = own + messages[left] if sent < ranks - 1 else messages[left]
            clock[rank] = max(clock[rank], arrivals[left])
    assert (values == total).all()
    return float(clock.max())


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_takes_as_long_as_the_algorithm_run_message_by_message(ranks: int) -> None:
    count = 8 * ranks * 1000
    cluster = Links(per_node=8, within=1e9, between=1e8, latency=1e-5)
    assert cluster.ring(count, ranks) == pytest.approx(really_ring(count, ranks, 1e9, 1e-5))
    assert cluster.gather(count, ranks) == pytest.approx(really_ring(count, ranks, 1e9, 1e-5) / 2)


def test_a_ring_over_nodes_is_as_narrow_as_their_links() -> None:
    cluster = Links(per_node=4, within=1e9, between=1e8, latency=0.0)
    assert cluster.ring(1e6, 4) == pytest.approx(2 * 3 / 4 * 1e6 / 1e9)
    assert cluster.ring(1e6, 8) == pytest.approx(2 * 7 / 8 * 1e6 / 1e8)


def test_trees_win_where_latency_counts() -> None:
    cluster = Links(per_node=8, within=1e11, between=1e11, latency=1e-5)
    assert cluster.all_reduce(1e3, 1024) == cluster.tree(1e3, 1024) < cluster.ring(1e3, 1024)
    assert cluster.all_reduce(1e9, 8) == cluster.ring(1e9, 8) < cluster.tree(1e9, 8)
    assert cluster.tree(0, 1024) == pytest.approx(2 * math.log2(1024) * 1e-5)


@pytest.mark.parametrize("ranks", [3, 4, 8, 16])
def test_all_to_all_is_as_long_as_its_narrowest_link_is_busy(ranks: int) -> None:
    """Every pair's message counted on the link that it takes: a GPU's own, or the one that its node shares."""
    cluster, count = Links(per_node=4, within=1e9, between=3e9, latency=1e-5), 1e8
    near, far = np.zeros(ranks), np.zeros(-(-ranks // 4))
    for sender in range(ranks):
        for receiver in set(range(ranks)) - {sender}:
            if sender // 4 == receiver // 4:
                near[sender] += count / ranks
            else:
                far[sender // 4] += count / ranks
    expected = max(near.max() / 1e9, far.max() / 3e9) + (ranks - 1) * 1e-5
    assert cluster.all_to_all(count, ranks) == pytest.approx(expected)


def test_one_process_talks_to_nobody() -> None:
    cluster = Links(per_node=8, within=1.0, between=1.0, latency=1.0)
    assert cluster.all_reduce(1e9, 1) == cluster.gather(1e9, 1) == cluster.all_to_all(1e9, 1) == 0
