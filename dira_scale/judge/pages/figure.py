"""Pictures, and plots as SVG that stand in the page, so that its style sheet gives the colours of the dark mode."""

import re
from collections.abc import Callable
from html import escape
from io import BytesIO, StringIO

import matplotlib
import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dira_scale.judge.pages.template import data_url

COLOURS = {  # light mode's, by the names under which style.css has the dark mode's
    "plot-1": "#2563a8",
    "plot-2": "#b85f14",
    "plot-3": "#4f8a48",
    "plot-4": "#8a5fa8",
    "plot-ink": "#1d2530",
    "plot-label": "#566070",
    "plot-axis": "#c4cad3",
    "plot-level": "#7b8594",
    "plot-band": "#eef2f7",
}
LINES = [COLOURS[f"plot-{n}"] for n in (1, 2, 3, 4)]
LABEL, LEVEL, BAND = COLOURS["plot-label"], COLOURS["plot-level"], COLOURS["plot-band"]
SIZE = (3.7, 2.4)  # inches of 96 CSS pixels: about as wide as a phone, so that a plot's text keeps its size everywhere
STYLE = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": COLOURS["plot-ink"],
    "axes.edgecolor": COLOURS["plot-axis"],
    "axes.labelcolor": LABEL,
    "xtick.color": COLOURS["plot-axis"],
    "ytick.color": COLOURS["plot-axis"],
    "xtick.labelcolor": LABEL,
    "ytick.labelcolor": LABEL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,  # a tick is its value: without a sum to do,
    "axes.formatter.min_exponent": 4,  # and without powers of ten where it is short
}


def address(picture: np.ndarray) -> str:
    """A data URL: a JPEG of uint8 [H, W] or [H, W, 3]."""
    file = BytesIO()
    PIL.Image.fromarray(picture).save(file, "jpeg", quality=88)
    return data_url("jpeg", file.getvalue())


def svg(label: str, draw: Callable[[Axes], None]) -> str:
    """A figure as an SVG element, with its text as text; equal figures give equal bytes.

    Args:
        label: what a screen reader says; different for every figure of a page, whose ids are made of it.
    """
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": label}):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.subplots())
        file = StringIO()
        figure.savefig(file, format="svg", transparent=True)
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", file.getvalue(), flags=re.DOTALL)
    drawing = re.sub(r' id="[\w.]+_\d+"', "", drawing)  # axes_1 and the like: in every figure, and not used
    # Use the reader's interface font: the one that matplotlib measured may not be installed.
    drawing = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", drawing)
    for name, colour in COLOURS.items():
        drawing = drawing.replace(colour, f"var(--{name}, {colour})")
    return drawing[drawing.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
