"""``python -m dira_scale.doctor``: what this machine has, what it lacks, and the launch command to type."""

import json
import shlex
from dataclasses import asdict

from omegaconf import DictConfig
from rich.console import Console

from dira_scale.config.compose import run_verb
from dira_scale.imaging.decoders import dicom_decoders
from dira_scale.machine.hardware import hardware
from dira_scale.machine.inventory import components
from dira_scale.machine.launch import launch_command
from dira_scale.machine.show import show


def doctor(config: DictConfig) -> None:
    """Look at the machine and print it in the form that ``config.show`` names."""
    here = hardware()
    command = launch_command(here)
    if config.show == "launch":
        print(shlex.join(command))
        return
    found = components(here, dicom_decoders())
    if config.show == "json":
        software = [asdict(component) for component in found]
        print(json.dumps({"hardware": asdict(here), "software": software, "launch": command}, indent=1))
    else:
        show(here, found, command, Console())


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("doctor", doctor, argv)


if __name__ == "__main__":
    raise SystemExit(main())
