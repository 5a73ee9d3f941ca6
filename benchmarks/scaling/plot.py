"""OUT/scaling.png: efficiency, and goodput with the best checkpoint interval."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


def draw(path: Path, result: dict[str, Any]) -> None:
    """Both halves of the picture, from what scaling.json holds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    _efficiency(left, result)
    _goodput(right, result["simulated_gpus"])
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _efficiency(axes: Axes, result: dict[str, Any]) -> None:
    simulated, measured = result["simulated_gpus"], result["measured"]
    ranks = [row["gpus"] for row in simulated]
    axes.plot(ranks, [100 * row["efficiency"] for row in simulated], "-", label="simulated GPUs")
    processes = [row["processes"] for row in measured]
    axes.plot(processes, [100 * row["efficiency"] for row in measured], "ko", label="measured here")
    for published in result["published"]:
        (point,) = axes.plot(published["many"], 100 * published["efficiency"], "^", ms=7, mfc="none")
        axes.plot(published["many"], 100 * published["simulated"], "x", ms=7, color=point.get_color())
    axes.plot([], [], "k^", mfc="none", label="published")
    axes.plot([], [], "kx", label="published, simulated")
    axes.set(xlabel="GPUs or processes", ylabel="efficiency (%)", ylim=(0, 104))
    _powers(axes, sorted({1, 2, 4, *processes, *ranks}))
    axes.legend(loc="lower left", fontsize=8)


def _goodput(axes: Axes, simulated: list[dict[str, float]]) -> None:
    ranks = [int(row["gpus"]) for row in simulated]
    axes.plot(ranks, [100 * row["goodput"] for row in simulated], "-", label="goodput, best interval (simulated)")
    axes.set(xlabel="GPUs", ylabel="goodput (%)", ylim=(None, 100.2))
    _powers(axes, ranks)
    other = axes.twinx()
    other.plot(ranks, [row["interval"] / 60 for row in simulated], "--", color="tab:orange")
    other.set(ylabel="best checkpoint interval (minutes, dashed)", ylim=(0, None))
    axes.legend(loc="upper center", fontsize=8)


def _powers(axes: Axes, ticks: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [str(n) for n in ticks], fontsize=8)
    axes.minorticks_off()
