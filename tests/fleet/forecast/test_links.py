import math
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.fleet.forecast.links import Links


def cluster(
    per_node: int, within: float, between: float, latency: tuple[float, float] = (1e-5, 1e-5), links: int = 1
) -> Links:
    return Links(per_node, within, between, *latency, links)


def really_ring(count: int, ranks: int, bandwidth: float, latency: list[float], laps: int = 2) -> float:
    """Run the algorithm: chunks travel round the ring, are added up, then handed on; each message takes its time.

    ``latency``: from each rank to the next one.
    """
    random = np.random.default_rng(0)
    values = random.integers(0, 100, (ranks, ranks, count // ranks // 8)).astype(float)  # [rank, chunk, words]
    total, clock = values.sum(0), np.zeros(ranks)
    for sent in range(laps * (ranks - 1)):
        chunks = [(rank - sent) % ranks for rank in range(ranks)]
        messages = [values[rank, chunks[rank]].copy() for rank in range(ranks)]
        arrivals = [clock[rank] + latency[rank] + messages[rank].nbytes / bandwidth for rank in range(ranks)]
        for rank in range(ranks):
            left = (rank - 1) % ranks
            own = values[rank, chunks[left]]
            own[:] = own + messages[left] if sent < ranks - 1 else messages[left]
            clock[rank] = max(clock[rank], arrivals[left])
    assert laps == 1 or (values == total).all()
    return float(clock.max())


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_a_ring_takes_as_long_as_the_algorithm_run_message_by_message(ranks: int) -> None:
    count = 8 * ranks * 1000
    node = cluster(per_node=8, within=1e9, between=1e8)
    seconds = really_ring(count, ranks, 1e9, [1e-5] * ranks)
    assert node.ring(count, ranks) == pytest.approx(seconds)
    assert node.gather(count, ranks) == pytest.approx(seconds / 2)


@pytest.mark.parametrize(("ranks", "per_node"), [(8, 4), (9, 3), (4, 1), (3, 2), (24, 8)])
def test_a_part_that_goes_round_leaves_each_node_once(ranks: int, per_node: int) -> None:
    """Hops out of a node take ten times those within; all have the same bandwidth."""
    latency = [1e-4 if (rank + 1) % per_node == 0 or rank + 1 == ranks else 1e-5 for rank in range(ranks)]
    nodes = cluster(per_node, within=1e9, between=1e9, latency=(1e-5, 1e-4))
    count = 8 * ranks * 1000
    assert nodes.gather(count, ranks) == pytest.approx(really_ring(count, ranks, 1e9, latency, laps=1))


def test_a_ring_takes_all_links_of_a_node_that_its_gpus_reach() -> None:
    """Rings over nodes of four GPUs with four links each; the last of six ranks has two GPUs in its node."""
    nodes = cluster(per_node=4, within=1e9, between=1e8, latency=(0.0, 0.0), links=4)
    assert [nodes.bandwidth(ranks) for ranks in (4, 5, 6, 8)] == [1e9, 1e8, 2e8, 4e8]
    assert cluster(4, 1e9, 1e9, links=4).bandwidth(8) == 1e9  # a GPU's links within its node are the bottleneck
    assert nodes.ring(1e6, 8) == pytest.approx(2 * 7 / 8 * 1e6 / 4e8)


def test_trees_win_where_latency_counts() -> None:
    fast = cluster(per_node=8, within=1e11, between=1e11, latency=(1e-6, 1e-5))
    assert fast.all_reduce(1e3, 1024) == fast.tree(1e3, 1024) < fast.ring(1e3, 1024)
    assert fast.all_reduce(1e9, 8) == fast.ring(1e9, 8) < fast.tree(1e9, 8)
    # Up and down: a chain of eight GPUs in each node, and a tree of 128 nodes.
    assert fast.tree(0, 1024) == pytest.approx(2 * (7 * 1e-6 + math.log2(128) * 1e-5))
    assert fast.tree(0, 4) == pytest.approx(2 * 3 * 1e-6)


@pytest.mark.parametrize("links", [1, 2])
@pytest.mark.parametrize("ranks", [3, 4, 8, 16])
def test_all_to_all_is_as_long_as_its_narrowest_link_is_busy(ranks: int, links: int) -> None:
    """Every pair's message counted on the link that it takes: a GPU's own, or those that its node shares; messages
    to eight others are under way at once, and then to the next eight."""
    nodes, count = cluster(per_node=4, within=1e9, between=3e9, latency=(1e-5, 1e-4), links=links), 1e8
    near, far = np.zeros(ranks), np.zeros(-(-ranks // 4))
    for sender in range(ranks):
        for receiver in set(range(ranks)) - {sender}:
            if sender // 4 == receiver // 4:
                near[sender] += count / ranks
            else:
                far[sender // 4] += count / ranks
    latency = {3: 1e-5, 4: 1e-5, 8: 1e-4, 16: 2e-4}  # 15 others: twice eight at most
    expected = max(near.max() / 1e9, far.max() / (links * 3e9)) + latency[ranks]
    assert nodes.all_to_all(count, ranks) == pytest.approx(expected)


def test_one_process_talks_to_nobody() -> None:
    nodes = cluster(per_node=8, within=1.0, between=1.0, latency=(1.0, 1.0))
    assert nodes.all_reduce(1e9, 1) == nodes.gather(1e9, 1) == nodes.all_to_all(1e9, 1) == 0


def test_links_of_the_planned_machines() -> None:
    """By ``plan.*``, in GB/s; ``machine=h200`` has a link for each GPU, and 2.1 times the arithmetic of the A100."""
    a100: Any
    h200: Any
    a100, h200 = (OmegaConf.to_object(compose("plan", words).plan) for words in ([], ["machine=h200", "plan.gpus=8"]))
    assert Links.of(a100, 4) == Links(4, 240e9, 22e9, 4e-6, 1.4e-5, links=1)
    assert Links.of(h200, 8) == Links(8, 360e9, 40e9, 4e-6, 1.4e-5, links=8)
    assert (a100.memory, a100.tflops, a100.bandwidth, a100.norm_bandwidth) == (80, 104, 0.79, 0.85)
    assert (h200.memory, h200.tflops, h200.bandwidth, h200.norm_bandwidth) == (141, 330, 1.85, 2.0)
