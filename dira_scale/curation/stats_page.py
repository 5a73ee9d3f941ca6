"""Display a dataset: a table in the terminal, and a self-contained HTML page."""

import io
from base64 import b64encode
from pathlib import Path

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Column, Table

from dira_scale import __version__
from dira_scale.curation.stats import LOOKED_AT, SHOWN, Stats, oddities
from dira_scale.reporting.page import template
from dira_scale.reporting.plots import HELD_OUT, TRAIN, svg

TILE = 120  # pixels per side on the contact sheet


def print_table(stats: Stats) -> None:
    """Print splits, labels and oddities."""
    console = Console(soft_wrap=True, highlight=False, markup=False)  # names may contain brackets
    table = Table("split", *(_right(n) for n in ("samples", "patients", "studies", "MB", "masks", "boxes")), box=None)
    for s in stats.splits:
        table.add_row(s.name, *map(str, (s.samples, s.patients, s.studies)), f"{s.megabytes:.1f}", str(s.masks),
                      str(s.boxes))  # fmt: skip
    console.print(f"{stats.info.name}: {stats.info.modality}, {stats.info.dims}D, {stats.info.codec}")
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
    return template(Path(__file__).with_name("stats.html.j2")).render(
        stats=stats,
        info=stats.info,
        version=__version__,
        odd=oddities(stats),
        looked_at=min(LOOKED_AT, stats.dataset.table.num_rows),
        shown=min(SHOWN, stats.dataset.table.num_rows),
        sheet=_address(sheet := contact_sheet(stats)),
        sheet_width=sheet.shape[1],
        histograms=[
            ("Stored pixels per side", _histogram("sides", stats.sides(), "pixels")),
            *([("Spacing", _histogram("spacing", spacings, "mm per pixel"))] if (spacings := stats.spacings()) else []),
            ("Intensities, scaled as in training", _intensities(stats)),
        ],
    )


def contact_sheet(stats: Stats) -> np.ndarray:
    """uint8 [H, W]: sampled images, each fitted into a tile, 12 per row."""
    rows = stats.drawn(SHOWN)
    wide = min(12, len(rows))
    sheet = np.full((-(-len(rows) // wide) * (TILE + 4) - 4, wide * (TILE + 4) - 4), 255, np.uint8)
    for number, row in enumerate(rows):
        picture = PIL.Image.fromarray((stats.picture(int(row)) * 255).astype(np.uint8))
        fit = TILE / max(picture.size)
        picture = picture.resize(
            tuple(max(1, round(side * fit)) for side in picture.size), PIL.Image.Resampling.BILINEAR
        )
        y, x = number // wide * (TILE + 4), number % wide * (TILE + 4)
        tile = sheet[y : y + TILE, x : x + TILE]
        tile[:] = 0
        top, left = (TILE - picture.height) // 2, (TILE - picture.width) // 2
        tile[top : top + picture.height, left : left + picture.width] = np.asarray(picture)
    return sheet


def _address(sheet: np.ndarray) -> str:
    file = io.BytesIO()
    PIL.Image.fromarray(sheet).save(file, "jpeg", quality=88)
    return "data:image/jpeg;base64," + b64encode(file.getvalue()).decode()


def _histogram(name: str, values: dict[str, np.ndarray], unit: str) -> str:
    def draw(axes: Axes) -> None:
        finite = {axis: column[np.isfinite(column)] for axis, column in values.items()}
        every = np.concatenate([*finite.values(), np.zeros(0 if any(map(len, finite.values())) else 1)])
        margin = 0.02 * np.ptp(every) or 0.5 * every.max()  # all equal: one central bar
        edges = np.linspace(every.min() - margin, every.max() + margin, 41)
        for (axis, column), colour in zip(finite.items(), (TRAIN, HELD_OUT, "#7aa874"), strict=False):
            axes.stairs(np.histogram(column, edges)[0], edges, label=axis, color=colour, linewidth=1.4)
        axes.set_xlabel(unit)
        axes.set_ylabel("samples")
        axes.legend(frameon=False, fontsize=8)

    return svg(name, (5.2, 2.7), draw)


def _intensities(stats: Stats) -> str:
    def draw(axes: Axes) -> None:
        shares = stats.intensities / max(stats.intensities.sum(), 1)
        axes.stairs(100 * shares, np.linspace(0, 1, len(shares) + 1), fill=True, color=TRAIN)
        axes.set_xlabel("value")
        axes.set_ylabel("% of pixels")

    return svg("intensities", (5.2, 2.7), draw)
