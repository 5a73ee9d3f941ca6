"""Results of several runs as a table that keeps three kinds of uncertainty apart.

Another pretraining run gives other weights, another seed of fine-tuning other figures of the same weights, and other
test patients other figures of the same network. None of the three says anything about the other two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dira_scale.dataset.metrics.figure import Figure, number
from dira_scale.dataset.metrics.statistics.bootstrap import Interval


@dataclass(frozen=True)
class Result:
    """A figure of one fine-tuned network. ``setting``: what is compared, such as a method; ``run``: the pretraining
    run that it began with (of random weights, the draw of these); ``seed``: of fine-tuning."""

    setting: str
    run: str
    seed: int
    figure: Figure

    @property
    def metric(self) -> str:
        """With the figure's name."""
        return self.figure.title


@dataclass(frozen=True)
class Spread:
    """All results of a setting and metric.

    ``mean``: over runs, of each run's mean over seeds. ``n``: the pretraining runs. ``run_sd``: the standard deviation
    of the runs' means. ``seed_sd``: that of seeds within a run, pooled over runs; ``results``: their number.
    ``left_out``: results without a value. ``interval``: of the mean over test patients. ``ddof``: of both standard
    deviations, which are None of a single run, and where no run has two seeds. ``share``: as of its figures.
    """

    setting: str
    metric: str
    mean: float
    run_sd: float | None
    n: int
    seed_sd: float | None
    results: int
    left_out: int
    interval: Interval | None
    patients: int
    ddof: int
    share: bool = False

    @property
    def scale(self) -> int:
        """The factor with which tables show it."""
        return 100 if self.share else 1

    @classmethod
    def of_json(cls, row: Mapping[str, Any]) -> "Spread":
        """The spread of a row of ``spread.json``."""
        ends = row["interval"] and {name: number(row["interval"][name]) for name in ("value", "low", "high")}
        interval = Interval(**{**row["interval"], **ends}) if ends else None
        return cls(**{**row, "mean": number(row["mean"]), "interval": interval})


def spreads(
    results: Sequence[Result], intervals: Mapping[tuple[str, str], Interval] | None = None, ddof: int = 1
) -> list[Spread]:
    """One for each setting and metric, in the order of ``results``.

    Args:
        intervals: over test patients, by (setting, metric): a bootstrap of ``mean``, so of each run's ``average``.
        ddof: 1 for the sample's standard deviation; 0 as numpy's default, which the papers' code prints.

    Raises:
        ValueError: a run and seed twice, or results of a setting and metric from other numbers of patients.
    """
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.setting, result.metric), []).append(result)
    of_groups = []
    for (setting, metric), members in groups.items():
        patients = {result.figure.patients for result in members}
        if len(patients) > 1:
            counts = ", ".join(map(str, sorted(patients)))
            raise ValueError(f"{setting}, {metric}: test splits of {counts} patients are not one test split")
        runs = values_by_run(members)
        means = np.array([values.mean() for values in runs.values()])
        several = [values for values in runs.values() if len(values) > 1]
        free = sum(len(values) - ddof for values in several)
        squares = sum(float(((values - values.mean()) ** 2).sum()) for values in several)
        count = sum(map(len, runs.values()))
        of_groups.append(Spread(
            setting=setting,
            metric=metric,
            mean=float(means.mean()) if len(means) else float("nan"),
            run_sd=float(means.std(ddof=ddof)) if len(means) > 1 else None,
            n=len(means),
            seed_sd=float(np.sqrt(squares / free)) if free else None,
            results=count,
            left_out=len(members) - count,
            interval=(intervals or {}).get((setting, metric)),
            patients=patients.pop(),
            ddof=ddof,
            share=members[0].figure.share,
        ))  # fmt: skip
    return of_groups


def values_by_run(results: Sequence[Result]) -> dict[str, np.ndarray]:
    """The values of each run's seeds, those that are NaN left out. Raises ValueError for a run and seed twice."""
    if len({(result.run, result.seed) for result in results}) < len(results):
        raise ValueError(f"{results[0].setting}, {results[0].metric}: a run and seed is there twice")
    runs: dict[str, list[float]] = {}
    for result in results:
        if not np.isnan(result.figure.value):
            runs.setdefault(result.run, []).append(result.figure.value)
    return {run: np.array(values) for run, values in runs.items()}


def spread_table(spreads: Sequence[Spread]) -> list[list[str]]:
    """Cells, the header first: a row for each spread, a column for each kind of uncertainty."""
    ddof = ", ".join(sorted({str(spread.ddof) for spread in spreads}))
    levels = ", ".join(sorted({f"{100 * s.interval.level:g} %" for s in spreads if s.interval is not None}))
    head = ["setting", "metric", "mean", "n (runs)", f"sd over runs (ddof {ddof})", f"sd over seeds (ddof {ddof})"]
    head += [f"interval over patients ({levels})" if levels else "interval over patients"]

    def decimals(value: float | None) -> str:
        return "-" if value is None or np.isnan(value) else f"{value:.4f}"

    body = []
    for spread in spreads:
        ends = spread.interval and f"{decimals(spread.interval.low)} to {decimals(spread.interval.high)}"
        sds = decimals(spread.run_sd), f"{decimals(spread.seed_sd)} ({spread.results} results)"
        line = [spread.setting, spread.metric, decimals(spread.mean), str(spread.n), *sds]
        body.append([*line, f"{ends or '-'} ({spread.patients})"])
    return [head, *body]
