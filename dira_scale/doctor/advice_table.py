"""The experiments for a dataset on this machine, as a table with the command to use."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import track
from rich.table import Table

from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import duration
from dira_scale.forecast.advice import EXPERIMENTS, Choice, choice, recommend
from dira_scale.forecast.links import GB
from dira_scale.machine.console import Console
from dira_scale.machine.hardware import Hardware


def advise(shards: str, machine: Hardware, console: Console) -> list[Choice]:
    """What each experiment would take on the training split of ``shards``, with a progress bar.

    Raises ``UserError`` if there is no such dataset, or one of volumes.
    """
    dataset = ShardedDataset.open(shards)
    dataset.require_images("pretrain")
    images, held_out = len(dataset.rows("train")), len(dataset.rows("val")) > 0
    named = track(EXPERIMENTS, "rehearsing the experiments", console=console, transient=True)
    return [replace(choice(name, images, machine), held_out=held_out) for name in named]


def show_advice(shards: str, choices: Sequence[Choice], command: Sequence[str], console: Console) -> None:
    """Print the table and, below it, the recommended command and why."""
    console.print(f"\n[bold]Experiments for the {choices[0].images:,} training images of {shards} on this machine[/]")
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("  experiment=", "pixels", "encoder", "batch", "epoch_factor", "steps", "time", "GB", ""):
        left = name in ("  experiment=", "encoder", "")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "")
    for row in choices:
        figures = ["–"] * 4
        if plan := row.plan:
            needed = f"{plan.row.memory.peak / GB:.1f}"
            figures = [f"{row.epoch_factor:g}", f"{plan.steps:,}", duration(3600 * plan.row.hours), needed]
        problem = f"[yellow]{row.problem}[/]"
        table.add_row(f"  {row.experiment}", str(row.size), row.encoder, str(row.batch), *figures, problem)
    console.print(table)
    best, why = recommend(choices)
    if best is None:
        console.print(f"\n  none: {why}\n", highlight=False)
        return
    factor = f" epoch_factor={best.epoch_factor:g}" if best.epoch_factor != 1 else ""
    run = f"out/runs/{Path(shards).name}"
    keys = f"experiment={best.experiment}{factor} data.shards={shlex.quote(shards)} run={shlex.quote(run)}"
    keys += "" if best.held_out else " data.val_split=null"
    console.print(f"\n  {shlex.join(command)} {keys}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"  because {why}", soft_wrap=True, highlight=False)
    for remark in best.plan.remarks if best.plan else ():
        console.print(f"  {remark}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        "  Time is of the steps alone, by the encoder's speed measured here: about. GB: peak of one process.\n"
        f"  Fine-tuning: python -m dira_scale.plan finetune task=… data.shards={shlex.quote(shards)}\n",
        style="dim",
        highlight=False,
    )
