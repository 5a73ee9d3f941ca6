"""Contenders in turns, and what their times say. Without dira_scale: ``peers_run.py`` uses it where there is none."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple

import psutil

LEAD = 6  # batches of the shorter run: as many as any contender prepares ahead

Run = Callable[[int], Iterable[Any]]


class Pace(NamedTuple):
    """Of one contender in one round."""

    rate: float  # images/s
    core_ms: float  # of all processes, an image: hardly depends on what else the machine does


def exhaust(run: Run, batches: int) -> float:
    """Seconds of a run."""
    began = perf_counter()
    for _ in run(batches):
        pass
    return perf_counter() - began


def core_seconds() -> float:
    """Of this process and its children, so far."""
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


def enough(run: Run, seconds: float) -> int:
    """Batches that take about ``seconds``; the first runs, which may compile, do not count."""
    exhaust(run, 1)
    return max(1, round(seconds * LEAD / exhaust(run, LEAD)))


def take_turns(runs: Mapping[str, Run], batch: int, rounds: int, seconds: float) -> dict[str, list[Pace]]:
    """By name, one for each round. Every other round goes backwards."""
    batches = {name: enough(run, seconds) for name, run in runs.items()}
    result: dict[str, list[Pace]] = {name: [] for name in runs}
    for number in range(rounds):
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            result[name].append(pace(runs[name], batch, batches[name]))
    return result


def rates(paces: Mapping[str, Sequence[Pace]]) -> dict[str, list[float]]:
    """Their images/s."""
    return {name: [turn.rate for turn in turns] for name, turns in paces.items()}


def core_ms(paces: Mapping[str, Sequence[Pace]]) -> dict[str, list[float]]:
    """Their cost."""
    return {name: [turn.core_ms for turn in turns] for name, turns in paces.items()}


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
