"""The results as tables; every row says whether it is measured or simulated."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.scaling.measured import Measured


def tell(console: Console, title: str, head: str, rows: Sequence[Sequence[str]]) -> None:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=None, header_style="dim", padding=(0, 2, 0, 0)
    )
    for i, name in enumerate(head.split(",")):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print()


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def tell_measured(
    console: Console,
    measured: Sequence[Measured],
    simulated: dict[int, float],
    load: float,
    left_out: Mapping[str, str],
) -> None:
    """Processes of this machine; ``simulated``: seconds of a step by their number, with the first loader."""
    item = {m.loader: m.together for m in measured if m.processes == 1}
    rows = []
    for m in measured:
        ratio = f"{m.processes * item[m.loader] / m.together:.2f}" if m.loader in item else "–"
        apart, together = f"{1000 * m.apart:.0f}", f"{1000 * m.together:.0f}"
        rows.append(("measured", m.loader, str(m.processes), apart, together, ratio, percent(m.efficiency)))
        if m.processes in simulated and m.loader == measured[0].loader:
            seconds = simulated[m.processes]
            told = f"{1000 * seconds:.0f} ({100 * (seconds / m.together - 1):+.0f} %)"
            rows.append(("simulated", "", str(m.processes), "", told, "", percent(m.apart / seconds)))
    title = f"This machine: {len(os.sched_getaffinity(0))} cores (load {load:.0f}), gloo; ms of a step"
    tell(console, title, "row,loader,processes,ms apart,ms together,speed-up,efficiency", rows)
    for name, why in left_out.items():
        console.print(f"without {name}: {why}", style="dim", highlight=False, markup=False)


def tell_published(console: Console, published: Sequence[dict[str, Any]], jitter: float) -> None:
    """Others' measurements beside our simulation of them."""
    rows = [
        (p["what"], f"{p['few']} → {p['many']}", percent(p["efficiency"]), percent(p["simulated"])) for p in published
    ]
    title = f"Published measurements; simulated with a jitter of {percent(jitter)}, fitted to the first"
    tell(console, title, "measured by,GPUs,published,simulated", rows)


def tell_simulated(console: Console, result: Sequence[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """One job on more and more GPUs."""
    rows = [
        (
            "simulated",
            str(row["gpus"]),
            f"{1000 * row['step']:.1f}",
            f"{row['images_per_second']:,.0f}",
            percent(row["efficiency"]),
            percent(row["efficiency_without_own"]),
            f"{row['mtbf'] / 3600:,.0f} h",
            f"{row['interval'] / 60:.0f} min",
            f"{row['young'] / 60:.0f} min",
            f"{100 * row['goodput']:.2f} %",
        )
        for row in result
    ]
    machine = next((key for key in arguments.keys if key.startswith("machine=")), "machine=a100")
    head = "row,GPUs,ms/step,images/s,efficiency,without keys,MTBF,save every,Young,goodput"
    tell(console, f"{arguments.experiment}, {arguments.images} images a GPU, nodes of 8, {machine}", head, rows)
    names = list(result[0]["parts"])
    parts = [(str(row["gpus"]), *(f"{1000 * row['parts'][name]:.1f}" for name in names)) for row in result]
    tell(console, "Simulated: where the ms of a step go", ",".join(["GPUs", *names]), parts)
    console.print(
        "'without keys': without what the method itself gathers and averages (MoCo's keys; with several BatchNorm "
        "groups its images change places between the GPUs).\n"
        "Gradients, asynchronous messages (keys): what the backward pass does not hide of them. Blocking: BatchNorm, "
        "discriminator, images that change places. Host, control (gloo's message about signals), loader: by how much "
        "they outlast all else.\n"
        f"Failures: a GPU once in {arguments.mtbf:,.0f} h (Llama 3: 419 in 54 days of 16,384), {arguments.restart:.0f} "
        f"s to restart, {arguments.save:g} s still for a checkpoint. No loader is late.",
        style="dim",
        highlight=False,
    )
