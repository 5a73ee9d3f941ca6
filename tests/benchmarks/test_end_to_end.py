"""The benchmark of a whole pretraining: its arithmetic by hand, and that each turn sees what it should."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from benchmarks import end_to_end
from dira_scale.train.data.views import ViewSpec


def test_the_slower_half_is_the_measure() -> None:
    """5 steps of 2 images: the steps alone 5 images/s, the loader 2 and then 10; both 1.25 and then 4."""
    seconds = {"step": [2.0, 2.0, 2.0], "loader": [5.0, 1.0, 1.0], "both": [8.0, 2.5, 2.5], "wait": [4.0, 0.05, 0.01]}
    result = end_to_end.figures(**seconds, steps=5, batch=2)
    assert (result["loader"], result["both"], result["share"]) == (10.0, 4.0, 4.0 / 5.0)
    assert result["ratio"] == 4.0 / 5.0
    assert (result["lowest"], result["highest"]) == (5.0 / 8.0, 2.0 / 2.5)
    assert result["wait_ms"] == pytest.approx(10)


class Recorder:
    """A loader of numbers that remembers what was asked of it; every batch is waited for for a second."""

    def __init__(self, breaks: int = 1000) -> None:
        self.requested: list[tuple[int, int]] = []
        self.breaks, self.waited, self.closed = breaks, 0.0, 0

    def iterate(self, start: int, stop: int) -> Iterator[int]:
        self.requested.append((start, stop))
        try:
            for number in range(start, stop):
                if number == self.breaks:
                    raise ValueError("a broken\nbatch")
                self.waited += 1
                yield number
        finally:
            self.closed += 1

    def seconds(self) -> dict[str, float]:
        return {"wait": self.waited}


def turns_of(rounds: int, **loaders: Recorder) -> tuple[end_to_end.LoaderTurns, list[int]]:
    waits: list[int] = []
    return end_to_end.LoaderTurns(ViewSpec(size=32), loaders, 1, 3, rounds, lambda: waits.append(0)), waits  # type: ignore[arg-type]


def test_turns_share_no_batch_and_warm_up_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still but for what the trainer is handed: a step takes a second."""
    clock, item, two = [0.0], Recorder(), Recorder()
    monkeypatch.setattr(end_to_end, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    turns, waits = turns_of(2, item=item, two=two)
    seen = []
    for batch in turns.iterate(0, turns.length + 1):
        clock[0] += 1
        seen.append(batch)
    assert len(seen) == turns.length + 1
    first, second = ([*range(5, 10)] * 2, [*range(15, 20)] * 2)  # two of five warm up; five were read alone before
    assert seen == [0, 0, 0, 0, 0, 0, *first, 0, 0, 0, *second, 0]
    assert item.requested == [(0, 1), (0, 10), (10, 20)] and two.requested == [(0, 10), (10, 20)]
    assert (item.closed, two.closed) == (3, 2)
    assert turns.steps_alone == [3.0, 3.0]
    assert turns.taken["two"] == {"loader": [0.0, 0.0], "both": [3.0, 3.0], "wait": [3.0, 3.0]}
    assert len(waits) == 2 * (2 + 4 + 4)  # before and after each


def test_a_loader_that_breaks_costs_no_other() -> None:
    bad, good = Recorder(breaks=7), Recorder()
    turns, _ = turns_of(2, bad=bad, good=good)
    seen = list(turns.iterate(0, turns.length + 1))
    assert seen == [0, 0, 0, 0, 0, 0, 5, 6, *range(5, 10), 0, 0, 0, *range(15, 20), 0]
    result = turns.figures(batch=4)
    assert result["loaders"]["bad"] == {"broken": "ValueError: a broken batch"} and bad.closed == 2
    assert result["loaders"]["good"]["both"] > 0
    about = {"device": "cpu", "batch": 4, "size": 32}
    assert "bad         ValueError: a broken batch\n" in end_to_end.text(about | result)
