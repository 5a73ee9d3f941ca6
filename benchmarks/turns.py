"""Contenders in turns, and what their times say. Without dira_scale: ``peers_run.py`` uses it where there is none."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple

import psutil

LEAD = 6  # batches of the shorter run: as many as any contender prepares ahead


class Pace(NamedTuple):
    """What one contender did in one round."""

    rate: float  # images/s or crops/s
    core_ms: float  # of all processes, an image or a crop: hardly depends on what else the machine does


Run = Callable[[int], Iterable[Any]]  # so many batches
Turn = Callable[[float], Pace]  # of so many seconds


def exhaust(run: Run, batches: int) -> float:
    """Seconds of a run."""
    began = perf_counter()
    for _ in run(batches):
        pass
    return perf_counter() - began


def core_seconds() -> float:
    """The seconds of this process and its children, so far."""
    mine = psutil.Process()
    result = 0.0
    for process in (mine, *mine.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:  # ended since it was listed
            continue
        result += times.user + times.system
    return result


def pace(run: Run, batch: int, batches: int) -> Pace:
    """The rate once it runs: of a run of LEAD batches and one of LEAD + ``batches``, the difference.

    So starting a run, filling its queues and emptying them does not count; it does in the longer run's processor time,
    of which a difference would be too coarse: the kernel counts in hundredths of a second.
    """
    while True:
        short = exhaust(run, LEAD)
        before = core_seconds()
        long = exhaust(run, LEAD + batches)
        if long > short:
            cores = core_seconds() - before
            return Pace(batches * batch / (long - short), 1000 * cores / ((LEAD + batches) * batch))
        batches *= 2  # on a busy machine a few batches may take longer than many


def turn_of(run: Run, batch: int) -> Turn:
    """Turns of ``run``, all with as many batches as take the first one's seconds."""

    @cache
    def enough(seconds: float) -> int:
        exhaust(run, 1)  # may compile, and does not count
        return max(1, round(seconds * LEAD / exhaust(run, LEAD)))

    return lambda seconds: pace(run, batch, enough(seconds))


def take_turns(turns: Mapping[str, Turn], rounds: int, seconds: float) -> dict[str, list[Pace]]:
    """By name, one for each round. Every other round goes backwards."""
    result: dict[str, list[Pace]] = {name: [] for name in turns}
    for number in range(rounds):
        for name in list(turns)[:: 1 if number % 2 == 0 else -1]:
            result[name].append(turns[name](seconds))
    return result


def rates(paces: Mapping[str, Sequence[Pace]]) -> dict[str, list[float]]:
    """Images/s of each, round by round."""
    return {name: [turn.rate for turn in turns] for name, turns in paces.items()}


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

    def whole(self) -> str:
        """Rates as text, without decimals."""
        return f"{self.median:,.0f} ({self.lowest:,.0f}-{self.highest:,.0f})"


def ratio(first: Sequence[float], second: Sequence[float]) -> Spread:
    """``first`` / ``second``, round by round: what slows a whole round cancels."""
    return Spread.of([a / b for a, b in zip(first, second, strict=True)])
