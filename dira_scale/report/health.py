"""The health monitors as curves: what each plot shows, what is normal, and which lines it draws."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes

from dira_scale.judge.pages.figure import LEVEL, LINES
from dira_scale.judge.pages.results import never_answered
from dira_scale.report.content import RunContent
from dira_scale.report.plots import is_single, over_steps, titles
from dira_scale.train.runs.reader import RunRow
from dira_scale.train.runs.remarks import no_better_than_mean, worse_features

TERM_GRADIENTS = "health/gradient/"
HELD_OUT_KEYS = ("step", "stage", "health/knn_auc", "patch_top1")  # drawn of a held-out row


@dataclass(frozen=True)
class MonitorPlot:
    """One plot, drawn if any row has one of its ``lines`` (row key -> label)."""

    title: str
    normal: str
    lines: Mapping[str, str]
    level: float | None = None  # dashed line to compare with
    logarithmic: bool = False


PLOTS = (
    MonitorPlot(
        "Spread of directions",
        "1: even; 0: all images become one. Embeddings stay above 0.15; below 0.1 is collapse",
        {"health/std": "embeddings", "health/features_std": "encoder's features"},
        level=0.0,
    ),
    MonitorPlot(
        "Effective rank",
        "number of directions in use, at most the batch size; embeddings below 2.5: collapse",
        {"health/rank": "embeddings", "health/features_rank": "encoder's features"},
        level=1.0,
    ),
    MonitorPlot(
        "Alignment",
        "squared distance between an image's two embeddings: falls, from about 2",
        {"health/alignment": "views"},
    ),
    MonitorPlot(
        "Uniformity",
        "how evenly embeddings fill the sphere: -1 to -4; 0 is collapse",
        {"health/uniformity": "embeddings"},
    ),
    MonitorPlot(
        "Gradient of each term at the encoder's output",
        "norm, weighted: a term a thousand times below another hardly moves the encoder",
        {},
        logarithmic=True,
    ),
    MonitorPlot("Gradient norm", "of all parameters: no lasting climb", {"gradient_norm": "total"}, logarithmic=True),
    MonitorPlot(
        "Fresh share of the queue",
        "keys younger than the key encoder's drift: 1 once the queue is full",
        {"queue_fresh": "keys"},
    ),
    MonitorPlot(
        "Prototypes",
        "entropy of the teacher's softmax, of ln K: 1 says nothing. Share in use: near 0 is collapse",
        {"teacher_entropy": "entropy", "prototypes": "in use"},
    ),
    MonitorPlot(
        "PCRL's errors",
        "MSE of what is restored from each encoder's features, unweighted: fall together",
        {
            "re_ordinary": "ordinary",
            "re_momentum": "momentum",
            "re_hybrid": "hybrid",
            "re_mixed": "mixed images",
            "re_mixed_hybrid": "mixed, hybrid",
        },
    ),
    MonitorPlot(
        "Discriminator's accuracy",
        "correct patches: 0.5 to 0.95. Dashed: it cannot tell; 1: the decoder never deceives it",
        {"health/discriminator": "correct patches"},
        level=0.5,
    ),
    MonitorPlot(
        "PSNR of restored training images", "peak signal-to-noise ratio in dB: rises", {"health/psnr": "restored"}
    ),
    MonitorPlot(
        "SSIM of restored training images", "structural similarity: rises; 1 is identical", {"health/ssim": "restored"}
    ),
    MonitorPlot(
        "Nearest-neighbour AUC of the labels",
        "mean over labels, held-out images by the encoder's features; dashed: chance",
        {"health/knn_auc": "held out"},
        level=0.5,
    ),
    MonitorPlot(
        "Patches found again in a shifted, jittered view (top-1)",
        "features of patches, within this run: a fall while whole images are told apart better is decay",
        {"patch_top1": "held out"},
    ),
)


def monitor_plots(run: RunContent) -> list[tuple[str, str, str]]:
    """(title, what is normal, SVG) of every monitor that the run has values for at several steps."""
    rows = _rows(run)
    return [
        (plot.title, plot.normal, _draw(run, rows, plot, lines))
        for plot, lines in _monitors(rows) if not is_single(rows, lines)
    ]  # fmt: skip


def single_values(run: RunContent) -> list[tuple[str, str]]:
    """(title, ``training 0.82, held out 0.79 (step 4)``) of what was measured at one step only, which no chart shows:
    losses, metrics and monitors."""
    labels, rows = {"train": "training", "val": "held out"}, _rows(run)
    titled = [
        (title, [(labels[row["split"]], row[name], row["step"]) for row in run.rows if name in row])
        for name, title in titles(run).items() if is_single(run.rows, [name])
    ]  # fmt: skip
    titled += [
        (plot.title, [(lines[key], row[key], row["step"]) for row in rows for key in lines if key in row])
        for plot, lines in _monitors(rows) if is_single(rows, lines)
    ]  # fmt: skip
    return [
        (title, f"{', '.join(f'{label} {value:.3g}' for label, value, _ in values)} (step {values[0][2]})")
        for title, values in titled
    ]


def _monitors(rows: list[RunRow]) -> Iterator[tuple[MonitorPlot, dict[str, str]]]:
    """Each plot with its lines that ``rows`` have."""
    keys = dict.fromkeys(key for row in rows for key in row)
    terms = {key: key.removeprefix(TERM_GRADIENTS) for key in keys if key.startswith(TERM_GRADIENTS)}
    for plot in PLOTS:
        if lines := {key: label for key, label in (plot.lines or terms).items() if key in keys}:
            yield plot, lines


def _rows(run: RunContent) -> list[RunRow]:
    """Training rows, and of held-out rows only the keys that training rows lack."""
    return [r if r["split"] == "train" else {k: v for k, v in r.items() if k in HELD_OUT_KEYS} for r in run.rows]


def monitored(run: RunContent) -> dict[str, tuple[str, bool]]:
    """Title of each monitor's each line, and whether its axis is logarithmic, by the rows' key."""
    return {
        key: (f"{plot.title}: {label}" if len(lines) > 1 else plot.title, plot.logarithmic)
        for plot, lines in _monitors(_rows(run)) for key, label in lines.items()
    }  # fmt: skip


def warnings(run: RunContent) -> list[str]:
    """The run's warnings: as logged, with their steps; of stages that worsened; of its restoration and its answers."""
    logged = [f"step {row['step']} ({row['stage']}): {text}" for row in run.rows for text in row.get("warnings", [])]
    ends = worse_features(run.rows, run.held_out_samples).values()
    return [*logged, *ends, *no_better_than_mean(run.restoration), *never_answered(run.results)]


def _draw(run: RunContent, rows: list[RunRow], plot: MonitorPlot, lines: Mapping[str, str]) -> str:
    stages = [stage for stage in run.stages if any(r["stage"] == stage and lines.keys() & r for r in rows)]

    def draw(axes: Axes) -> None:
        drawn = {}
        for (key, label), colour in zip(lines.items(), LINES, strict=False):
            for stage in stages:
                logged = [row for row in rows if row["stage"] == stage and key in row]
                steps, values = [row["step"] for row in logged], [row[key] for row in logged]
                (drawn[label],) = axes.plot(
                    steps, values, color=colour, linewidth=1.3, marker="o", markersize=2.2, clip_on=False
                )
        if plot.level is not None:
            axes.axhline(plot.level, color=LEVEL, linewidth=0.8, linestyle="--")
        if plot.logarithmic:
            axes.set_yscale("log")
        if len(lines) > 1:
            axes.figure.legend(
                drawn.values(), drawn.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8
            )

    return over_steps(run, stages, f"{plot.title} over optimizer steps: {plot.normal}", draw)
