"""A table's cells: a figure with its spread and n, its twin from random weights, and what the two allow to claim."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dira_scale.dataset.metrics.statistics.spread import Spread

ENOUGH = 5  # pretraining runs, and random initialisations, below which nothing is claimed
LEVEL = 0.05  # of p, with Holm's correction


@dataclass(frozen=True)
class RandomTwin:
    """The runs that differ from a cell's in random weights alone. ``difference``: the cell's mean less theirs; ``p``:
    Welch's, over runs, ``p_holm`` corrected for all tests of the phase, or of a paper's table; NaN without a test."""

    n: int
    difference: float
    p: float = math.nan
    p_holm: float = math.nan


@dataclass(frozen=True)
class Cell:
    """A figure. ``mean``, ``sd`` and ``interval``: in percent where the metric is a share; ``sd`` is over the ``n``
    pretraining runs (ddof 1), None of one; ``interval``: over test patients; ``runs``: ids of those it is from;
    ``digits``: behind the point, in its text."""

    mean: float
    sd: float | None
    n: int
    interval: tuple[float, float] | None = None
    twin: RandomTwin | None = None
    runs: tuple[str, ...] = ()
    digits: int = 1

    @classmethod
    def of(cls, spread: Spread, twin: RandomTwin | None, runs: tuple[str, ...]) -> "Cell":
        scale, ends = spread.scale, spread.interval
        interval = (scale * ends.low, scale * ends.high) if ends and not math.isnan(ends.low + ends.high) else None
        sd = None if spread.run_sd is None else scale * spread.run_sd
        digits = 3 if scale == 1 and abs(spread.mean) < 1 else 1  # a number's error is in its own unit
        return cls(scale * spread.mean, sd, spread.n, interval, twin, runs, digits)

    def text(self) -> str:
        """``92.4 ± 0.4``."""
        spread = "" if self.sd is None else f" ± {self.sd:.{self.digits}f}"
        return "–" if math.isnan(self.mean) else f"{self.mean:.{self.digits}f}{spread}"

    def about_twin(self) -> str:
        """``+6.9, p 0.02``: against random weights, p with Holm's correction; empty without a twin."""
        if self.twin is None:
            return ""
        p = self.twin.p_holm
        test = "" if math.isnan(p) else ", p < 0.001" if p < 0.001 else f", p {p:.2g}"
        return f"{self.twin.difference:+z.{self.digits}f}{test}"

    def verdict(self) -> str:
        """``better`` or ``worse`` than the twin, or nothing if nothing may be claimed."""
        twin = self.twin
        if twin is None or min(self.n, twin.n) < ENOUGH or not twin.p_holm < LEVEL:
            return ""
        return "better" if twin.difference > 0 else "worse"


@dataclass(frozen=True)
class Published:
    """A paper's figure. ``std``: as printed, None where it is not."""

    mean: float
    std: float | None

    def text(self) -> str:
        """``77.6 ± 0.3``."""
        return f"{self.mean:.2f}" + (f" ± {self.std:.2f}" if self.std is not None else "")


@dataclass(frozen=True)
class Table:
    """Cells by (row, column). ``baselines``: rows that nothing was pretrained for; ``fractions``: of labels, of columns
    that have one; ``published``: a paper's figures by (row, column)."""

    title: str
    metric: str
    rows: Sequence[str]
    columns: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    baselines: Sequence[str] = ()
    fractions: Mapping[str, float] = field(default_factory=dict)
    published: Mapping[tuple[str, str], Published] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def claims(self) -> str:
        """Say in a sentence what the table's cells allow to claim."""
        runs = [min(cell.n, cell.twin.n) for cell in self.cells.values() if cell.twin is not None]
        if not runs:
            return "No cell has a twin from random weights: nothing is claimed."
        if max(runs) < ENOUGH:
            return f"At most {max(runs)} runs, pretrained or random, fewer than {ENOUGH}: nothing is claimed."
        enough, claimed = sum(n >= ENOUGH for n in runs), sum(bool(cell.verdict()) for cell in self.cells.values())
        return f"Of {enough} cells with {ENOUGH} runs or more, {claimed} differ from their twins (p < {LEVEL:g})."
