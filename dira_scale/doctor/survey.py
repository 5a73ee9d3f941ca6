"""What `doctor` does: look at hardware, packages and the launch command, and show them."""

import json
import shlex
from dataclasses import asdict

from omegaconf import DictConfig

from dira_scale.archive.following import require_images
from dira_scale.doctor.launch import as_typed, launch_command
from dira_scale.doctor.show import show
from dira_scale.imaging.decoders import dicom_decoders
from dira_scale.machine.console import Console
from dira_scale.machine.hardware import hardware
from dira_scale.machine.inventory import components

WIDTH = 108  # columns where the output is not a terminal


def survey(config: DictConfig) -> None:
    """Inspect the machine and print the result in the form ``config.show``."""
    if config.shards:
        require_images(config.shards)  # told before anything is measured
    machine = hardware()
    command = launch_command()
    if config.show == "launch":
        print(shlex.join(command))
        return
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    software = components(machine, dicom_decoders())
    choices = []
    if config.shards:
        from dira_scale.doctor.advice_table import advise, show_advice  # imports torch

        choices = advise(config.shards, machine, console)
    if config.show == "json":
        described = [asdict(component) for component in software]
        told = {"hardware": asdict(machine), "software": described, "launch": command}
        print(json.dumps(told | {"experiments": [asdict(choice) for choice in choices]}, indent=1))
        return
    show(machine, software, as_typed(command), console)
    if choices:
        show_advice(config.shards, choices, as_typed(command), console)
