"""The benchmark of a whole pretraining: its arithmetic by hand, and that each turn sees what it should."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import backends, overlap
from benchmarks.end_to_end import main
from dira_scale.data.views import ViewSpec
from dira_scale.errors import UserError

TINY = [
    "experiment=small", "precision=fp32", "parallel.threads=1", "data.workers=1", "data.prefetch=1", "data.size=32",
    "data.batch=4", "model.decoder_channels=[32,16,16,8,8]", "method.base.queue=64",
]  # fmt: skip


def test_the_slower_half_is_the_measure() -> None:
    """5 steps of 2 images: the steps alone 5 images/s, the loader 2 and then 10; both 1.25 and then 4."""
    seconds = {"step": [2.0, 2.0, 2.0], "loader": [5.0, 1.0, 1.0], "both": [8.0, 2.5, 2.5], "wait": [4.0, 0.05, 0.01]}
    result = overlap.figures(**seconds, steps=5, batch=2)
    assert (result["loader"], result["both"], result["share"]) == (10.0, 4.0, 4.0 / 5.0)
    assert result["ratio"] == 4.0 / 5.0
    assert (result["lowest"], result["highest"]) == (5.0 / 8.0, 2.0 / 2.5)
    assert result["wait_ms"] == pytest.approx(10)


class Recorder:
    """A loader of numbers that remembers what was asked of it; every batch is waited for for a second."""

    def __init__(self, breaks: int = 1000) -> None:
        self.asked: list[tuple[int, int]] = []
        self.breaks, self.waited, self.closed = breaks, 0.0, 0

    def iterate(self, start: int, stop: int) -> Iterator[int]:
        self.asked.append((start, stop))
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


def turns_of(rounds: int, **loaders: Recorder) -> tuple[overlap.LoaderTurns, list[int]]:
    waits: list[int] = []
    return overlap.LoaderTurns(ViewSpec(size=32), loaders, 1, 3, rounds, lambda: waits.append(0)), waits  # type: ignore[arg-type]


def test_turns_share_no_batch_and_warm_up_untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still but for what the trainer is handed: a step takes a second."""
    clock, item, two = [0.0], Recorder(), Recorder()
    monkeypatch.setattr(overlap, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    turns, waits = turns_of(2, item=item, two=two)
    seen = []
    for batch in turns.iterate(0, turns.length + 1):
        clock[0] += 1
        seen.append(batch)
    assert len(seen) == turns.length + 1
    first, second = (
        [*range(5, 10)] * 2,
        [*range(15, 20)] * 2,
    )  # of five, two to warm up; five were read alone before
    assert seen == [0, 0, 0, 0, 0, 0, *first, 0, 0, 0, *second, 0]
    assert item.asked == [(0, 1), (0, 10), (10, 20)] and two.asked == [(0, 10), (10, 20)]
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
    assert "bad         ValueError: a broken batch\n" in overlap.text(about | result)


def test_shards_that_none_can_read_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        backends.open_all(["cpu", "ffcv"], [f"data.shards={tmp_path / 'none'}"], ViewSpec(), "cpu", 1, tmp_path)
    assert str(error.value).count("no sharded dataset at") == 1


@pytest.mark.system
def test_the_trainer_trains_on_the_shards_that_it_makes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = backends.make_shards(tmp_path, 24, 64)
    (shards / "train.beton").unlink(missing_ok=True)
    words = ["--shards", str(shards), "--rounds", "1", "--steps", "1", "--json", str(tmp_path / "a.json")]
    main([*words, "--keys", *TINY])
    printed = [row.split()[0] for row in capsys.readouterr().out.splitlines()]
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["size"] == 32 and list(result["loaders"]) == list(backends.BACKENDS)
    assert [name for name in printed if name in backends.BACKENDS] == list(backends.BACKENDS)
    assert "ffcv" in result["loaders"]["ffcv"]["left_out"]
    for name in ("cpu", "helper", "stream"):
        row = result["loaders"][name]
        assert row["both"] > 0 and row["share"] == pytest.approx(row["both"] / result["step"])
        assert row["ratio"] == pytest.approx(row["both"] / min(result["step"], row["loader"]))
