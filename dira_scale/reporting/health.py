"""The health monitors as curves: what each figure shows, what is normal, and the lines it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from dira_scale.reporting.plots import HELD_OUT, MUTED, TRAIN, shade, svg
from dira_scale.reporting.record import Record
from dira_scale.runs.reader import Row

COLOURS = (TRAIN, HELD_OUT, "#7aa874", "#8a5fa8")
PULLS = "health/gradient/"
OF_ROWS = ("step", "stage", "health/knn_auc")  # what is drawn of a held-out row


@dataclass(frozen=True)
class Figure:
    """One figure; it is drawn where a row has one of its ``lines``, which map keys of a row to words."""

    title: str
    normal: str
    lines: Mapping[str, str]
    level: float | None = None  # a line to compare with
    logarithmic: bool = False


FIGURES = (
    Figure(
        "Spread of directions",
        "1: even; towards 0: all images become one (collapse)",
        {"health/std": "embeddings", "health/features_std": "encoder's features"},
        level=0.0,
    ),
    Figure(
        "Effective rank",
        "how many directions are in use, at most the batch's size; near 1 is collapse",
        {"health/rank": "embeddings", "health/features_rank": "encoder's features"},
        level=1.0,
    ),
    Figure("Alignment", "squared distance of an image's two views: falls, from about 2", {"health/alignment": "views"}),
    Figure("Uniformity", "0: all images are one; about -4: they fill the sphere", {"health/uniformity": "embeddings"}),
    Figure(
        "Pull of the terms at the encoder's output",
        "norm of each weighted term's gradient: one a thousand times below another hardly moves the encoder",
        {},
        logarithmic=True,
    ),
    Figure("Gradient norm", "of all parameters: no lasting climb", {"gradient_norm": "total"}, logarithmic=True),
    Figure(
        "Queue that is fresh",
        "share of the keys younger than the key encoder's drift: 1 once the queue is full",
        {"queue_fresh": "keys"},
    ),
    Figure(
        "Discriminator's accuracy",
        "between one half (dashed: it cannot tell) and 1 (the generator never fools it)",
        {"health/discriminator": "patches judged right"},
        level=0.5,
    ),
    Figure("PSNR of restored training images", "in dB: rises", {"health/psnr": "restored"}),
    Figure("SSIM of restored training images", "1: equal; rises", {"health/ssim": "restored"}),
    Figure(
        "What neighbours know of the labels",
        "mean AUC over labels, of held-out images by the encoder's features; dashed: nothing",
        {"health/knn_auc": "held out"},
        level=0.5,
    ),
)


def figures(record: Record) -> list[tuple[str, str, str]]:
    """(title, what is normal, SVG) of every figure that the record has values for."""
    rows = _rows(record)
    keys = dict.fromkeys(key for row in rows for key in row)
    drawn = []
    for figure in FIGURES:
        lines = figure.lines or {key: key.removeprefix(PULLS) for key in keys if key.startswith(PULLS)}
        lines = {key: label for key, label in lines.items() if key in keys}
        if lines:
            drawn.append((figure.title, figure.normal, _draw(record, rows, figure, lines)))
    return drawn


def _rows(record: Record) -> list[Row]:
    """Those of training; of the held-out ones only what training has not."""
    return [row if row["split"] == "train" else {k: v for k, v in row.items() if k in OF_ROWS} for row in record.rows]


def warnings(record: Record) -> list[str]:
    """What the run was warned of, in its own words, with the step."""
    return [f"step {row['step']} ({row['stage']}): {text}" for row in record.rows for text in row.get("warnings", [])]


def _draw(record: Record, rows: list[Row], figure: Figure, lines: Mapping[str, str]) -> str:
    stages = [stage for stage in record.stages if any(r["stage"] == stage and lines.keys() & r for r in rows)]
    start, end = record.span(stages[0])[0], record.span(stages[-1])[1]

    def draw(axes: Axes) -> None:
        shade(axes, record, stages)
        for (key, label), colour in zip(lines.items(), COLOURS, strict=False):
            for stage in stages:
                here = [row for row in rows if row["stage"] == stage and key in row]
                at, values = [row["step"] for row in here], [row[key] for row in here]
                axes.plot(
                    at, values, label=label, color=colour, linewidth=1.3, marker="o", markersize=2.2, clip_on=False
                )
        if figure.level is not None:
            axes.axhline(figure.level, color=MUTED, linewidth=0.8, linestyle="--")
        if figure.logarithmic:
            axes.set_yscale("log")
        axes.set_xlim(start, end)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(lines) > 1:
            handles, labels = axes.get_legend_handles_labels()
            unique = dict(zip(labels, handles, strict=True))
            axes.legend(unique.values(), unique.keys(), frameon=False, fontsize=8, ncols=3, loc="best")

    return svg(figure.title, (5.2, 2.4), draw)
