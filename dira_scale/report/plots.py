"""Curves of a run."""

from collections.abc import Callable, Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dira_scale.judge.pages.figure import BAND, LABEL, LEVEL, LINES, svg
from dira_scale.report.content import RunContent
from dira_scale.train.runs.reader import RunRow
from dira_scale.train.runs.remarks import RECOGNISED

TRAIN, HELD_OUT = LINES[:2]


def curves(run: RunContent) -> list[tuple[str, str]]:
    """(title, SVG) of the losses, the metrics and the learning rate, over optimizer steps."""
    return [(title, _curve(run, name, title)) for name, title in titles(run).items() if not is_single(run.rows, [name])]


def is_single(rows: list[RunRow], names: Iterable[str]) -> bool:
    """Return whether ``rows`` have ``names`` at one step only: a chart of a dot tells less than its figure."""
    return len({row["step"] for row in rows for name in names if name in row}) == 1


def titles(run: RunContent) -> dict[str, str]:
    """Return the titles of the curves: the total loss, its terms, the other metrics, the learning rate."""
    terms = {f"loss/{name}": term.title for name, term in run.description.terms.items()}
    metrics = {name: metric.title for name, metric in run.description.metrics.items()}
    logged = dict.fromkeys(name for row in run.rows for name in row)
    others = {name: name for name in logged if name.startswith("loss/") and name not in terms}
    known = {"loss": "Loss"} | terms | others | metrics | {"lr": "Learning rate"}
    return {name: title for name, title in known.items() if name in logged}


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


def _curve(run: RunContent, name: str, title: str) -> str:
    splits = ("train", "val")
    stages = [s for s in run.stages if any(name in row for split in splits for row in run.select(s, split))]

    def draw(axes: Axes) -> None:
        for stage in stages:  # a line for each: the total changes meaning between stages, and the schedule restarts
            train, held_out = ([row for row in run.select(stage, split) if name in row] for split in splits)
            steps, values = [row["step"] for row in train], np.array([row[name] for row in train])
            marker = "o" if len(steps) == 1 else ""  # a line of a single point would be invisible
            if name == "lr":
                axes.plot(steps, values, color=TRAIN, linewidth=1.4, marker=marker, markersize=3, clip_on=False)
                continue
            axes.plot(steps, values, color=TRAIN, linewidth=0.7, alpha=0.3)
            axes.plot(steps, smooth(values), color=TRAIN, linewidth=1.6, marker=marker, markersize=3, clip_on=False)
            axes.plot(
                [row["step"] for row in held_out], [row[name] for row in held_out], color=HELD_OUT, marker="o",
                markersize=2.6, linewidth=0.8, clip_on=False,  # the last point is on the edge
            )  # fmt: skip
            for rows, colour in ((train, TRAIN), (held_out, HELD_OUT)) if name in RECOGNISED else ():
                beside = [row for row in rows if "chance" in row]
                at, chance = [row["step"] for row in beside], [row["chance"] for row in beside]
                axes.plot(at, chance, color=colour, linewidth=1, linestyle="--")
        for step in run.restarts():
            axes.axvline(step, color=LEVEL, linewidth=0.8, linestyle=":")

    last = {split: [r[name] for r in run.rows if r["split"] == split and name in r][-1:] for split in splits}
    spoken = "".join(f", {split} {values[0]:.3g}" for split, values in last.items() if values)
    return over_steps(run, stages, f"{title} over optimizer steps; last value:{spoken[1:]}", draw)


def over_steps(run: RunContent, stages: list[str], label: str, draw: Callable[[Axes], None]) -> str:
    """The SVG that ``draw`` makes, with a band behind every other stage, and the stages' names above."""

    def framed(axes: Axes) -> None:
        for i, stage in enumerate(stages):
            start, stop = run.span(stage)
            if i % 2 == 0 and len(stages) > 1:
                axes.axvspan(start, stop, color=BAND, linewidth=0, zorder=0)
            axes.text((start + stop) / 2, 1.02, stage, transform=axes.get_xaxis_transform(), ha="center", color=LABEL)
        draw(axes)
        axes.set_xlim(run.span(stages[0])[0], run.span(stages[-1])[1])
        label_steps(axes)

    return svg(label, framed)


def label_steps(axes: Axes) -> None:
    axes.set_xlabel("optimizer step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
