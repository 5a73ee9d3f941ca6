"""Means and clocks against plain arithmetic."""

import time

import pytest
import torch

from dira_scale.engine.means import Clock, Means


def test_means_are_weighted_and_start_anew() -> None:
    means = Means()
    for value, weight in [(1.0, 3), (5.0, 1), (7.0, 0)]:
        means.add({"loss": torch.tensor(value, dtype=torch.bfloat16), "top1": torch.tensor(value / 10)}, weight)
    means.add({"rare": torch.tensor(4.0)})
    assert means.values() == pytest.approx({"loss": 2.0, "top1": 0.2, "rare": 4.0})
    assert means.take() == pytest.approx({"loss": 2.0, "top1": 0.2, "rare": 4.0})
    assert means.take() == {} == means.values()


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
