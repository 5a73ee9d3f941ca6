"""A picture of the cases: images/s of every contender, with the spread, and the limit as a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.loader.goals import from_peers, limit
from benchmarks.loader.speed import Result
from benchmarks.loader.turns import Spread

COLOURS = {"ours": "#2563a8", "others": "#b85f14", "elsewhere": "#d9b48c"}
COLUMNS = 3


def draw(path: Path, results: Sequence[Result], peers: Mapping[str, Any]) -> None:
    """Write ``path``, SVG or PNG by its suffix."""
    rows = -(-len(results) // COLUMNS)
    figure = Figure(figsize=(5.2 * min(COLUMNS, len(results)), 2.9 * rows), layout="constrained")
    panels = figure.subplots(rows, min(COLUMNS, len(results)), squeeze=False).flatten()
    for axes, result in zip(panels, results, strict=False):
        _panel(axes, result, from_peers(result, peers))
    for axes in panels[len(results) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, result: Result, elsewhere: Mapping[str, Sequence[float]]) -> None:
    kinds = {name: kind for name, kind in result.kinds.items() if kind != "limit"}
    kinds |= dict.fromkeys(elsewhere, "elsewhere")
    speeds = {name: Spread.of({**result.speeds, **elsewhere}[name]) for name in kinds}
    names = sorted(kinds, key=lambda name: speeds[name].median)
    actual = [speeds[name] for name in names]
    spread = [[s.median - s.lowest for s in actual], [s.highest - s.median for s in actual]]
    axes.barh(names, [s.median for s in actual], xerr=spread, color=[COLOURS[kinds[name]] for name in names])
    axes.axvline(Spread.of(result.speeds[limit(result)]).median, color="#1d2530", linewidth=1, linestyle="--")
    axes.set_title(f"{result.case} (dashed: {limit(result)})", fontsize=9)
    axes.set_xlabel("images/s, two crops each", fontsize=8)
    axes.tick_params(labelsize=8)
