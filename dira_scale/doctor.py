"""``python -m dira_scale.doctor``: what this machine has and lacks, and the launch command to use.

torch is imported inside the function: a typing mistake is named within a second.
"""

import json
import shlex
from dataclasses import asdict

from omegaconf import DictConfig

from dira_scale.config.compose import run_verb
from dira_scale.machine.console import Console

WIDTH = 108  # columns where the output is not a terminal


def doctor(config: DictConfig) -> None:
    """Inspect the machine and print the result in the form ``config.show``."""
    from dira_scale.imaging.decoders import dicom_decoders
    from dira_scale.ingest.following import require_images
    from dira_scale.machine.hardware import hardware
    from dira_scale.machine.inventory import components
    from dira_scale.machine.launch import as_typed, launch_command
    from dira_scale.machine.show import show

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
        from dira_scale.planning.advice_table import advise, show_advice  # imports torch

        choices = advise(config.shards, machine, console)
    if config.show == "json":
        described = [asdict(component) for component in software]
        told = {"hardware": asdict(machine), "software": described, "launch": command}
        print(json.dumps(told | {"experiments": [asdict(choice) for choice in choices]}, indent=1))
        return
    show(machine, software, as_typed(command), console)
    if choices:
        show_advice(config.shards, choices, as_typed(command), console)


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("doctor", doctor, argv)


if __name__ == "__main__":
    raise SystemExit(main())
