"""Curves and bars of a run as SVG embedded in the page."""

import re
from base64 import b64encode
from collections.abc import Callable
from io import StringIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dira_scale.reporting.content import PARTS, RunContent
from dira_scale.reporting.summary import throughput

TRAIN, HELD_OUT, MUTED = "#2563a8", "#d1762b", "#8a94a3"
BANDS = ("#eef2f7", "#ffffff")  # alternating over the stages
PART_COLOURS = dict(zip(PARTS, ("#2563a8", "#d1762b", "#7aa874", "#b9bfc9"), strict=True))
TITLES = {
    "loss": "Total loss (weighted sum of the stage's terms)",
    "loss/di": "Discrimination",
    "loss/re": "Restoration",
    "loss/ad": "Adversary, the generator's part",
    "loss/discriminator": "Adversary, the discriminator's part",
    "top1": "Top-1 among the batch's own keys",
    "lr": "Learning rate",
}
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": "#c4cad3",
    "axes.labelcolor": "#5a6472",
    "xtick.color": "#5a6472",
    "ytick.color": "#5a6472",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def curves(run: RunContent) -> list[tuple[str, str]]:
    """(title, SVG) of the losses, the top-1 and the learning rate, over optimizer steps."""
    names = dict.fromkeys(name for row in run.rows for name in row if name == "loss" or name.startswith("loss/"))
    order = sorted(names, key=lambda name: list(TITLES).index(name) if name in TITLES else len(TITLES))
    wanted = [*order, *(name for name in ("top1", "lr") if any(name in row for row in run.rows))]
    return [(_title(run, name), _curve(run, name)) for name in wanted]


def time_bars(run: RunContent) -> str:
    """Time of each stage by part, one bar per stage."""
    stages = throughput(run)

    def draw(axes: Axes) -> None:
        left = np.zeros(len(stages))
        names = [t.stage for t in stages]
        minutes = max(sum(t.seconds.values()) for t in stages) > 180
        for part in PARTS:
            widths = np.array([t.seconds[part] for t in stages]) / (60 if minutes else 1)
            axes.barh(names, widths, left=left, color=PART_COLOURS[part], label=part, height=0.6)
            left += widths
        axes.invert_yaxis()
        axes.set_xlabel("minutes" if minutes else "seconds")
        axes.legend(ncols=len(PARTS), loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9)

    return svg("time", (9, 0.9 + 0.42 * len(stages)), draw)


def smooth(values: np.ndarray) -> np.ndarray:
    """Bias-corrected exponential mean over about a twelfth of the series; short series stay as they are."""
    if len(values) < 12:
        return values
    keep = 1 - 12 / len(values) if len(values) > 24 else 0.5
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return np.array(means)


def _title(run: RunContent, name: str) -> str:
    """The curve's title, with the configured base method or restoration distance."""
    method = run.config["method"]
    base = method.get("base", method).get("_target_", "").rpartition(".")[2]
    kind = {"loss/di": base, "loss/re": method.get("restoration", "").upper()}.get(name, "")
    return TITLES.get(name, name) + (f" ({kind})" if kind else "")


def _curve(run: RunContent, name: str) -> str:
    stages = [stage for stage in run.stages if any(name in row for row in run.select(stage, "train"))]
    start, end = run.span(stages[0])[0], run.span(stages[-1])[1]

    def draw(axes: Axes) -> None:
        shade(axes, run, stages)
        for stage in stages:
            _stage_curve(axes, run, stage, name)
        for step in run.restarts():
            axes.axvline(step, color=MUTED, linewidth=0.8, linestyle=":")
        axes.set_xlim(start, end)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if name != "lr":
            handles, labels = axes.get_legend_handles_labels()
            unique = dict(zip(labels, handles, strict=True))
            axes.legend(unique.values(), unique.keys(), frameon=False, fontsize=8, ncols=3, loc="best")

    return svg(name, (5.2, 2.7), draw)


def _stage_curve(axes: Axes, run: RunContent, stage: str, name: str) -> None:
    """A separate line per stage: the total changes meaning between stages, and the schedule restarts."""
    train = [row for row in run.select(stage, "train") if name in row]
    held_out = [row for row in run.select(stage, "val") if name in row]
    steps, values = [row["step"] for row in train], np.array([row[name] for row in train])
    if name == "lr":
        axes.plot(steps, values, color=TRAIN, linewidth=1.4, marker=_dot(steps), markersize=2.6)
        return
    axes.plot(steps, values, color=TRAIN, linewidth=0.7, alpha=0.3)
    axes.plot(
        steps, smooth(values), color=TRAIN, linewidth=1.6, marker=_dot(steps), markersize=2.6, label="train (smoothed)"
    )
    axes.plot(
        [row["step"] for row in held_out],
        [row[name] for row in held_out],
        color=HELD_OUT,
        marker="o",
        markersize=2.6,
        linewidth=0.8,
        clip_on=False,  # the last point is on the edge
        label="held out" if held_out else None,
    )
    if name == "top1":
        for rows, colour in ((train, TRAIN), (held_out, HELD_OUT)):
            at, chance = [row["step"] for row in rows], [row["chance"] for row in rows]
            axes.plot(at, chance, color=colour, linewidth=1, linestyle="--", label="chance" if rows is train else None)


def _dot(steps: list[int]) -> str:
    """A marker for a line of a single point, which would be invisible otherwise."""
    return "o" if len(steps) == 1 else ""


def shade(axes: Axes, run: RunContent, stages: list[str]) -> None:
    """Background bands for the stages, with their names above."""
    for i, stage in enumerate(stages):
        start, stop = run.span(stage)
        axes.axvspan(start, stop, color=BANDS[i % 2], linewidth=0, zorder=0)
        axes.text((start + stop) / 2, 1.02, stage, transform=axes.get_xaxis_transform(), ha="center", color="#5a6472")


def svg(name: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """A figure as a data URL for ``img``, with its text as text; equal figures give equal bytes."""
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.subplots())
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    # Use the reader's interface font: the one that matplotlib measured may not be installed.
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", file.getvalue())
    return "data:image/svg+xml;base64," + b64encode(svg.encode()).decode()
