"""The `doctor` command: inspects hardware, packages and the launch command, and shows them in tables.

These are readable without colour, and commands are never wrapped.
"""

import json
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict

from etils.epy import lazy_imports
from omegaconf import DictConfig
from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS as DECODERS
from rich.markup import escape
from rich.table import Table

from dira_scale.archive.outcome import require_images
from dira_scale.base.errors import require
from dira_scale.base.machine.console import Console
from dira_scale.base.machine.hardware import Hardware, hardware
from dira_scale.base.machine.install import has_torch
from dira_scale.base.machine.inventory import Component, components

with lazy_imports():
    import torch

    from dira_scale.archive import decoding_time
    from dira_scale.dataset import manifest
    from dira_scale.doctor import advice

WIDTH = 108  # columns where the output is not a terminal
MODULE = ("-m", "dira_scale.pretrain")
MARKS = {"there": "[green]yes[/]", "missing": "[yellow]no[/]", "broken": "[red]broken[/]"}


def dicom_decoders() -> dict[str, bool]:
    """Return whether each transfer syntax, by name, can be decoded here."""
    with suppress(ImportError):  # without imagecodecs: only what pydicom decodes itself
        import dira_scale.archive.imaging.dicom.codestream  # noqa: F401 (registers our decoders with pydicom)
    return {uid.name: decoder.is_available for uid, (decoder, *_) in DECODERS.items()}


def launch_command(cuda: int | None = None) -> list[str]:
    """The words of ``accelerate launch`` up to a run's own keys.

    One process per GPU; on CPUs a single process with a thread per core. (On two cores, two one-thread processes did
    153 images/s and one process 246, ResNet-18 at 64 pixels and batch 32: averaging gradients costs more than threads.)

    Args:
        cuda: number of GPUs that torch can use; None asks torch.
    """
    processes = (torch.cuda.device_count() if cuda is None else cuda) or 1
    # The defaults are given only to keep accelerate from listing them; precision is the run's own key.
    defaults = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *MODULE]
    if processes == 1:  # quiet: no launcher traceback when a run is stopped
        return ["accelerate", "launch", "--num_processes", "1", "--quiet", *defaults]
    # What torch's launcher sets, with a notice, if it is not set. parallel.threads decides.
    before = ["env", "OMP_NUM_THREADS=1", "accelerate", "launch", "--multi_gpu"]
    return [*before, "--num_processes", str(processes), *defaults]


def as_typed(command: list[str]) -> list[str]:
    """Return the command to type: one process needs no launcher."""
    return command if "--multi_gpu" in command else ["python", *MODULE]


def survey(config: DictConfig) -> None:
    """Inspect the machine and print the result in the form ``config.show``."""
    if config.shards:  # refused before anything is measured
        require("shards needs", "train", "torch")
        require_images(config.shards)
    if config.show == "launch":
        require("show=launch needs", "train", "torch")
    machine = hardware()
    command = launch_command() if has_torch() else []
    if config.show == "launch":
        print(shlex.join(command))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    software = components(machine, dicom_decoders())
    choices = advice.advise(config.shards, machine, console) if config.shards else []
    if config.show == "json":
        described = [asdict(component) for component in software]
        content = {"hardware": asdict(machine), "software": described, "launch": command}
        print(json.dumps(content | {"experiments": [asdict(choice) for choice in choices]}, indent=1))
        return
    show(machine, software, as_typed(command) if command else [], console)
    if choices:
        advice.show_advice(config.shards, choices, as_typed(command), console)
        if machine.gpus and (line := decoding_time.gpu_codecs_line(manifest.ShardedDataset.open(config.shards))):
            console.print(f"  {line}\n", soft_wrap=True, highlight=False, markup=False)


def show(machine: Hardware, software: list[Component], command: list[str], console: Console) -> None:
    """Print hardware, software, how to get what is missing, and the launch command, if there is one."""
    named = f"bfloat16 in hardware ({', '.join(machine.bf16)})"
    bf16 = named if machine.bf16 else "no bfloat16, so precision=auto is fp32"
    if "avx512_bf16" in machine.bf16 and "amx_bf16" not in machine.bf16:
        bf16 += "; without AMX it gets some gradients of convolutions wrong, which compute in fp32"
    devices = []
    for number, gpu in enumerate(machine.gpus):
        memory = "memory not reported" if gpu.memory_gib is None else f"{gpu.memory_gib:.0f} GiB"
        devices.append((f"GPU {number}", f"{gpu.name}, {memory}, driver {gpu.driver}"))
    if not devices:
        why = f" ({machine.no_gpu})" if machine.no_gpu else ""
        devices.append(("GPU", escape(f"none shown by the NVIDIA driver{why}")))
    rows = [
        *devices,
        ("CPU", f"{machine.cpu}, {machine.cores} cores, {machine.threads} threads; {bf16}"),
        ("memory", f"{machine.memory_gib:.0f} GiB, {machine.free_memory_gib:.0f} free"),
        ("disk", f"{machine.free_disk_gib:.0f} GiB free here"),
    ]
    console.print("\n[bold]This machine[/]")
    console.print(_table(rows))
    console.print("\n[bold]Software[/]")
    console.print(_table([(component.name, MARKS[component.state], component.detail) for component in software]))
    lacking = [component for component in software if component.state != "there"]
    if lacking:
        console.print("\n[bold]What is missing, what it is for, how to install it[/]")
    for component in lacking:
        console.print(f"  [bold]{component.name}[/]: {component.gives}")
        console.print(f"      {component.install}", soft_wrap=True, highlight=False, markup=False)
    if command:
        console.print("\n[bold]The launch command for this machine[/]")
        keys = "experiment=… data.shards=… run=…"
        console.print(f"  {shlex.join(command)} {keys}", soft_wrap=True, highlight=False, markup=False)
    console.print()


def _table(rows: Iterable[tuple[str, ...]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=16)
    for row in rows:
        table.add_row(f"  {row[0]}", *row[1:])
    return table
