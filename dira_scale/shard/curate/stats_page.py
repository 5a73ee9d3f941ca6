"""Display a dataset: a table in the terminal, and a self-contained HTML page."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.table import Column, Table

from dira_scale import __version__
from dira_scale.base.errors import counted
from dira_scale.base.machine.console import Console
from dira_scale.dataset.pixels.outlines import COLOURS, outlined
from dira_scale.judge.pages.figure import LINES, address, svg
from dira_scale.judge.pages.template import template
from dira_scale.judge.pages.verdict import Grade, Headline, Verdict
from dira_scale.shard.curate.stats import LOOKED_AT, REJECTED, SHOWN, Stats, oddities

TILE = 320  # pixels per side of a sampled image, to be looked at larger


def print_table(stats: Stats) -> None:
    """Print splits, labels and oddities."""
    console = Console(soft_wrap=True, highlight=False, markup=False)  # names may contain brackets
    table = Table("split", *(_right(n) for n in ("samples", "patients", "studies", "MB", "masks", "boxes")), box=None)
    for s in stats.splits:
        table.add_row(s.name, *map(str, (s.samples, s.patients, s.studies)), f"{s.megabytes:.1f}", str(s.masks),
                      str(s.boxes))  # fmt: skip
    about = [stats.info.modality, f"{stats.info.dims}D", stats.info.codec]
    if stats.info.channels:
        about.append(f"channels {', '.join(stats.info.channels)}")
    elif stats.info.dims == 2 and stats.dataset.column("channels").max() > 1:
        about.append("in colour")
    console.print(f"{stats.info.name}: {', '.join(about)}")
    console.print(table)
    if stats.labels:
        table = Table("label", *(_right(split) for split in stats.info.counts), box=None)
        for name, labels in stats.labels.items():
            table.add_row(name, *(str(label).replace(", ", "\n") for label in labels))
        console.print(table)
    for _, reason, count in stats.quarantine[:5]:
        console.print(f"quarantined: {count} x {reason}")
    if rest := sum(count for *_, count in stats.quarantine[5:]):
        console.print(f"quarantined: {rest} x other reasons, listed on the page")
    for text in oddities(stats):
        console.print(f"odd: {text}")


def _right(name: str) -> Column:
    return Column(name, justify="right", no_wrap=True)  # never wrap a number


def render_dataset(stats: Stats) -> str:
    """The page."""
    spacings, dots = stats.spacings(), "pixels" if stats.info.dims == 2 else "voxels"
    return template(Path(__file__).with_name("stats.html.j2")).render(
        stats=stats,
        info=stats.info,
        version=__version__,
        headlines=headlines(stats),
        odd=oddities(stats),
        masks=any(split.masks for split in stats.splits),
        boxes=any(split.boxes for split in stats.splits),
        colours=[*COLOURS],
        looked_at=min(LOOKED_AT, len(stats.dataset.index.records)),
        tiles=[(stats.dataset.cell("split", row), address(tile(stats, int(row)))) for row in stats.drawn(SHOWN)],
        plots=[
            (f"Stored {dots} per side", _histogram(f"Stored {dots} per side", stats.sides(), dots)),
            *([("Spacing", _histogram("Spacing", spacings, f"mm per {dots[:-1]}"))] if spacings else []),
            ("Intensities, scaled as in training", _intensities(stats)),
        ],
    )


def headlines(stats: Stats) -> list[Headline]:
    """Return the conditions that a dataset must meet before it is trained on."""
    inputs = stats.info.quarantined + sum(split.samples for split in stats.splits)
    rejected = stats.info.quarantined / inputs if inputs else 0.0
    return [
        Headline(
            f"{stats.shared_patients}",
            "patients in more than one split",
            "A patient in two splits makes held-out figures too good.",
            Verdict(Grade.poor if stats.shared_patients else Grade.good, "must be 0"),
        ),
        Headline(
            f"{100 * rejected:.1f} %",
            f"of {counted(inputs, 'input')} quarantined: rejected when sharding",
            "The reasons are listed below." if stats.info.quarantined else "",
            Verdict(Grade.fair if rejected > REJECTED else Grade.good, f"good: at most {100 * REJECTED:.0f} %"),
        ),
        Headline(
            f"{stats.copies}",
            "images that are exact copies of others",
            "shard audit names them, and near-duplicates." if stats.copies else "",
            Verdict(Grade.fair if stats.copies else Grade.good, "good: 0"),
        ),
    ]


def tile(stats: Stats, row: int) -> np.ndarray:
    """uint8 [TILE, TILE, 3]: an image on black with its mask's outlines and its boxes; of a volume the slice with most
    of its mask, else through the middle of its first box, else the middle one."""
    mask, boxes, depth = stats.dataset.mask(row), stats.dataset.cell("boxes", row) or [], None
    if stats.info.dims == 3:
        if mask is not None and mask.any():
            depth = int((mask > 0).sum((1, 2)).argmax())
        elif boxes:
            last = stats.dataset.cell("depth", row) - 1  # a box may reach out of its volume by a little
            depth = min(max(0, int(boxes[0]["z"] + boxes[0]["d"] / 2)), last)
        boxes = [box for box in boxes if depth is not None and box["z"] < depth + 1 and box["z"] + box["d"] > depth]
        mask = None if mask is None or depth is None else mask[depth]
    picture = (stats.dataset.picture(row, depth) * 255).astype(np.uint8)
    mask = None if mask is None else np.tile(mask, (1, picture.shape[1] // mask.shape[1]))  # of each channel
    return outlined(picture, mask, [[box[side] for side in "yxhw"] for box in boxes], TILE)


def _histogram(title: str, values: dict[str, np.ndarray], unit: str) -> str:
    def draw(axes: Axes) -> None:
        ends = np.array(
            [end for column in values.values() if len(column) for end in (column.min(), column.max())] or [0]
        )
        margin = 0.02 * np.ptp(ends) or 0.5 * ends.max()  # all equal: one central bar
        edges = np.linspace(ends.min() - margin, ends.max() + margin, 41)
        for (axis, column), colour, dashes in zip(values.items(), LINES, ("-", "--", ":"), strict=False):
            counts = np.histogram(column, edges)[0]
            axes.stairs(counts, edges, label=axis, color=colour, linewidth=1.4, linestyle=dashes)  # often equal
        axes.set_xlabel(unit)
        axes.set_ylabel("samples")
        axes.figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)

    spoken = ", ".join(f"{axis} {column.min():g} to {column.max():g}" for axis, column in values.items() if len(column))
    return svg(f"{title}, histogram: {spoken} {unit}", draw)


def _intensities(stats: Stats) -> str:
    def draw(axes: Axes) -> None:
        shares = stats.intensities / max(stats.intensities.sum(), 1)
        axes.stairs(100 * shares, np.linspace(0, 1, len(shares) + 1), fill=True, color=LINES[0])
        axes.set_xlabel("value")
        axes.set_ylabel("% of pixels")

    return svg("Intensities, histogram from 0 to 1", draw)
