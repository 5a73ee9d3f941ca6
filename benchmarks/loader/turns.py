"""Contenders in turns, and what their times say. Imports the standard library only: ``peers.py`` uses it elsewhere."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

LEAD = 6  # batches of the shorter run: as many as any contender prepares ahead

Run = Callable[[int], Iterable[Any]]


def exhaust(run: Run, batches: int) -> float:
    """Seconds of a run."""
    began = perf_counter()
    for _ in run(batches):
        pass
    return perf_counter() - began


def speed(run: Run, batch: int, batches: int) -> float:
    """Images/s once it runs: of a run of LEAD batches and one of LEAD + ``batches``, the difference.

    So starting a run, filling its queues and emptying them does not count.
    """
    while True:
        seconds = exhaust(run, LEAD + batches) - exhaust(run, LEAD)
        if seconds > 0:
            return batches * batch / seconds
        batches *= 2  # on a busy machine a few batches may take longer than many


def enough(run: Run, seconds: float) -> int:
    """Batches that take about ``seconds``; the first runs, which may compile, do not count."""
    exhaust(run, 1)
    return max(1, round(seconds * LEAD / exhaust(run, LEAD)))


def take_turns(runs: Mapping[str, Run], batch: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images/s by name, one value for each round. Every other round goes backwards."""
    batches = {name: enough(run, seconds) for name, run in runs.items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(speed(runs[name], batch, batches[name]))
    return found


@dataclass(frozen=True)
class Spread:
    """A median over the rounds, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f}-{self.highest:.2f})"


def ratio(first: Sequence[float], second: Sequence[float]) -> Spread:
    """``first`` / ``second``, round by round: what slows a whole round cancels."""
    return Spread.of([a / b for a, b in zip(first, second, strict=True)])
