"""The benchmark of a whole pretraining: its arithmetic by hand, and that each turn sees what it should."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import end_to_end
from dira_scale.data.views import ViewSpec

TINY = [
    "experiment=small", "precision=fp32", "parallel.threads=1", "data.workers=1", "data.prefetch=1", "data.size=32",
    "data.batch=4", "model.decoder_channels=[32,16,16,8,8]", "method.base.queue=64",
]  # fmt: skip


def test_the_slower_half_is_the_measure() -> None:
    """10 images a turn: steps 5 a second, the loader 2 and then 10; both 1.25 and then 4."""
    seconds = {"step": [2.0, 2.0, 2.0], "loader": [5.0, 1.0, 1.0], "both": [8.0, 2.5, 2.5]}
    found = end_to_end.figures(seconds, 10)
    assert (found["step"], found["loader"], found["both"]) == (5.0, 10.0, 4.0)
    assert found["ratio"] == 4.0 / 5.0
    assert (found["lowest"], found["highest"]) == (5.0 / 8.0, 2.0 / 2.5)


class Recorder:
    """A loader of numbers that remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def iterate(self, start: int, stop: int) -> Iterator[int]:
        self.asked.append((start, stop))
        yield from range(start, stop)


def test_turns_share_no_batch_and_warm_up_untimed() -> None:
    loader, waits = Recorder(), []
    turns = end_to_end.Turns(ViewSpec(size=32), loader, 1, 3, 1, lambda: waits.append(0))  # type: ignore[arg-type]
    seen = list(turns.iterate(0, turns.length + 1))
    assert len(seen) == turns.length + 1
    assert seen == [0, 0, 0, *range(5, 10), 0, 0, 0, *range(15, 20), 0]  # kept, the loader's with 2 to warm up
    assert loader.asked == [(0, 1), (0, 5), (5, 10), (10, 15), (15, 20)]
    assert {name: len(found) for name, found in turns.taken.items()} == {"step": 2, "loader": 2, "both": 2}
    assert len(waits) == 12  # before and after each


@pytest.mark.system
def test_the_trainer_trains_on_the_shards_that_it_makes(tmp_path: Path) -> None:
    shards = end_to_end.make_shards(tmp_path, 64)
    row = end_to_end.measure(shards, rounds=1, steps=1, keys=TINY)
    assert row["size"] == 32 and row["both"] > 0
    assert row["ratio"] == pytest.approx(row["both"] / min(row["step"], row["loader"]))
