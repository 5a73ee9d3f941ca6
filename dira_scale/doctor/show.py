"""The doctor's output: tables, readable without colour; commands are never wrapped."""

import shlex
from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from dira_scale.machine.console import Console
from dira_scale.machine.hardware import Gpu, Hardware
from dira_scale.machine.inventory import Component

MARKS = {"there": "[green]yes[/]", "missing": "[yellow]no[/]", "broken": "[red]broken[/]"}


def show(hardware: Hardware, components: list[Component], command: list[str], console: Console) -> None:
    """Print hardware, software, how to get what is missing, and the launch command."""
    console.print("\n[bold]This machine[/]")
    console.print(_table(_hardware_rows(hardware)))
    console.print("\n[bold]Software[/]")
    console.print(_table([(component.name, MARKS[component.state], component.detail) for component in components]))
    lacking = [component for component in components if component.state != "there"]
    if lacking:
        console.print("\n[bold]What is missing, what it is for, how to install it[/]")
    for component in lacking:
        console.print(f"  [bold]{component.name}[/]: {component.gives}")
        console.print(f"      {component.install}", soft_wrap=True, highlight=False, markup=False)
    console.print("\n[bold]The launch command for this machine[/]")
    keys = "experiment=… data.shards=… run=…"
    console.print(f"  {shlex.join(command)} {keys}", soft_wrap=True, highlight=False, markup=False)
    console.print()


def _hardware_rows(hardware: Hardware) -> list[tuple[str, str]]:
    bf16 = (
        f"bfloat16 in hardware ({', '.join(hardware.bf16)})"
        if hardware.bf16
        else "no bfloat16, so precision=auto is fp32"
    )
    if "avx512_bf16" in hardware.bf16 and "amx_bf16" not in hardware.bf16:
        bf16 += "; without AMX it gets some gradients of convolutions wrong, which compute in fp32"
    return [
        *([(f"GPU {i}", _gpu(gpu)) for i, gpu in enumerate(hardware.gpus)] or [("GPU", _no_gpu(hardware))]),
        ("CPU", f"{hardware.cpu}, {hardware.cores} cores, {hardware.threads} threads; {bf16}"),
        ("memory", f"{hardware.memory_gib:.0f} GiB, {hardware.free_memory_gib:.0f} free"),
        ("disk", f"{hardware.free_disk_gib:.0f} GiB free here"),
    ]


def _gpu(gpu: Gpu) -> str:
    memory = "memory not reported" if gpu.memory_gib is None else f"{gpu.memory_gib:.0f} GiB"
    return f"{gpu.name}, {memory}, driver {gpu.driver}"


def _no_gpu(hardware: Hardware) -> str:
    return escape(f"none shown by the NVIDIA driver{f' ({hardware.no_gpu})' if hardware.no_gpu else ''}")


def _table(rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=16)
    for row in rows:
        table.add_row(f"  {row[0]}", *row[1:])
    return table
