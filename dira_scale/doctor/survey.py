"""What `doctor` does: look at hardware, packages and the launch command, and show them."""

import json
import shlex
from contextlib import suppress
from dataclasses import asdict

import torch
from omegaconf import DictConfig
from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS as DECODERS

from dira_scale.archive.outcome import require_images
from dira_scale.doctor.show import show
from dira_scale.machine.console import Console
from dira_scale.machine.hardware import hardware
from dira_scale.machine.inventory import components

WIDTH = 108  # columns where the output is not a terminal
MODULE = ("-m", "dira_scale.pretrain")


def dicom_decoders() -> dict[str, bool]:
    """Whether each transfer syntax, by name, can be decoded here."""
    with suppress(ImportError):  # without imagecodecs: only what pydicom decodes itself
        import dira_scale.imaging.dicom.codestream  # noqa: F401 (registers our decoders with pydicom)
    return {uid.name: decoder.is_available for uid, (decoder, *_) in DECODERS.items()}


def launch_command(cuda: int | None = None) -> list[str]:
    """The words of ``accelerate launch`` up to a run's own keys.

    One process per GPU; on CPUs a single process with a thread per core. (On two cores, two one-thread processes did
    153 images/s and one process 246, ResNet-18 at 64 pixels and batch 32: averaging gradients costs more than threads.)

    Args:
        cuda: number of GPUs that torch can use; None asks torch.
    """
    cuda = torch.cuda.device_count() if cuda is None else cuda
    processes = cuda or 1
    words = ["accelerate", "launch", *(["--multi_gpu"] if processes > 1 else []), "--num_processes", str(processes)]
    # The defaults are given only to keep accelerate from listing them; precision is the run's own key.
    # Several processes: what torch's launcher sets, with a notice, if it is not set. parallel.threads decides.
    before = ["env", "OMP_NUM_THREADS=1"] if processes > 1 else []
    words += ["--quiet"] if processes == 1 else []  # no launcher traceback when a run is stopped
    return [*before, *words, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *MODULE]


def as_typed(command: list[str]) -> list[str]:
    """What to type: one process needs no launcher."""
    return command if "--multi_gpu" in command else ["python", *MODULE]


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
