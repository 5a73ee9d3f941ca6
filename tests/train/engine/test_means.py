"""Means and clocks against plain arithmetic."""

import math
import time
from types import SimpleNamespace

import pytest
import torch

from dira_scale.train.engine.means import Clock, HostCopy, Means


def test_means_are_weighted_and_start_anew() -> None:
    means = Means()
    for value, weight in [(1.0, 3), (5.0, 1), (7.0, 0)]:
        means.add({"loss": torch.tensor(value, dtype=torch.bfloat16), "top1": torch.tensor(value / 10)}, weight)
    means.add({"rare": torch.tensor(4.0)})
    assert means.take() == pytest.approx({"loss": 2.0, "top1": 0.2, "rare": 4.0})
    assert means.take() == {}


def test_a_copy_to_the_host_has_all_values_as_they_were_when_it_began() -> None:
    first, second = torch.tensor([0.1, math.inf]), torch.tensor([[2**62, 7]])
    copy = HostCopy(first, second)
    expected = first.double(), second.double()
    first.zero_(), second.zero_()
    assert copy.arrives(within=0.0)
    assert all(torch.equal(a, b) for a, b in zip(copy.read(), expected, strict=True))


def test_a_row_that_does_not_arrive_is_not_waited_for() -> None:
    copy = HostCopy(torch.ones(1))
    copy._done = SimpleNamespace(query=lambda: False)  # type: ignore[assignment]
    assert not copy.arrives(within=0.02)


def test_a_clock_divides_all_of_the_time() -> None:
    began = time.perf_counter()
    clock = Clock()
    with clock.part("validate"):
        time.sleep(0.02)
    clock.add("data", 0.003)
    time.sleep(0.02)
    parts = clock.take()
    assert set(parts) == {"validate", "data", "step"}
    assert parts["validate"] >= 0.02 and parts["data"] == 0.003
    assert sum(parts.values()) <= time.perf_counter() - began
    assert set(clock.take()) == {"step"}
