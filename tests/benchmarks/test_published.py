"""Published scaling, simulated with one jitter that nobody publishes."""

from dataclasses import replace

import pytest

from benchmarks.scaling.published import LLAMA, PUBLISHED, efficiency, fitted


def test_more_gpus_slower_links_and_more_jitter_never_help() -> None:
    by_ranks = [efficiency(fitted(LLAMA, 2.8, 8), 8, ranks) for ranks in (8, 16, 128, 1024)]
    assert by_ranks == sorted(by_ranks, reverse=True) and by_ranks[0] == 1
    slower = [fitted(replace(LLAMA, links=replace(LLAMA.links, between=b)), 2.8, 8) for b in (5e10, 5e9, 5e8)]
    by_links = [efficiency(work, 8, 128) for work in slower]
    assert by_links == sorted(by_links, reverse=True) and by_links[-1] < 0.5
    by_jitter = [PUBLISHED[0].simulated(jitter) for jitter in (0.0, 0.01, 0.05)]
    assert by_jitter == sorted(by_jitter, reverse=True)


def test_arithmetic_is_recovered_from_a_step() -> None:
    work = fitted(LLAMA, 2.843, 8)
    assert work.seconds(8) == pytest.approx(2.843) and work.alone.forward + work.alone.backward < 2.843


def test_published_figures_are_met_with_one_jitter() -> None:
    """Fitted to torchtitan's 97 % of plain FSDP, it must give the other three within 2 points."""
    assert PUBLISHED[0].efficiency == pytest.approx(0.973, abs=0.001)
    jitter = PUBLISHED[0].jitter()
    assert 0.005 < jitter < 0.05
    for other in PUBLISHED:
        assert other.simulated(jitter) == pytest.approx(other.efficiency, abs=0.02), other.what
