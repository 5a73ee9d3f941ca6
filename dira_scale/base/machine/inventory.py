"""Software that this project uses or could use: whether it is present, what it is for, how to install it."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from etils.epy import lazy_imports

from dira_scale.base.machine import torchvision_ops
from dira_scale.base.machine.hardware import Hardware
from dira_scale.base.machine.install import dali_extra, has_torch, install_command, repair_torch, torch_build

with lazy_imports():
    import torch

Presence = Literal["there", "missing", "broken"]
PACKAGES = (  # name, what it is for, distribution, our extra that installs it
    ("imagecodecs", "PNG and high-throughput JPEG 2000, 8 and 16 bits", "imagecodecs"),
    ("simplejpeg", "JPEG shards", "simplejpeg"),
    ("tensorboard", "live curves of a run: tensorboard --logdir out/runs", "tensorboard", "train"),
    ("DeepSpeed", "parallel=zero1, zero2, zero3: sharded optimizer, gradients, parameters", "deepspeed", "deepspeed"),
    ("monai", "finetune, evaluate, localize: their figures", "monai", "evaluation"),
)


@dataclass(frozen=True)
class Component:
    name: str
    state: Presence
    detail: str  # version and remarks; the reason if broken
    gives: str  # what it is for
    install: str  # the exact command that installs or repairs it


def components(hardware: Hardware, decoders: Mapping[str, bool]) -> list[Component]:
    """Inspect all components; imports are tried in fresh processes, a few at once.

    ``decoders``: DICOM transfer syntaxes by name, and whether each can be decoded here.
    """
    probes: list[Callable[[], Component]] = [
        lambda: _torch(hardware),
        _torchvision,
        lambda: _dicom(decoders),
        *(partial(_package, *row) for row in PACKAGES),
        _dali,
        _ffcv,
        _slurm,
    ]
    with ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(probe) for probe in probes]]


def _torch(hardware: Hardware) -> Component:
    if not has_torch():
        gives = "training, and every command that uses a network; shard does without"
        return Component("torch", "missing", "", gives, install_command("train"))
    gives = "training on this machine's GPUs"
    if not hardware.gpus or torch.cuda.is_available():
        return Component("torch", "there", torch_build(), gives, "")
    return Component("torch", "broken", f"{torch_build()}: it cannot use the GPU", gives, repair_torch())


def _torchvision() -> Component:
    state = torchvision_ops.state()
    detail = {
        "native": "its own operators load",
        "declared": "a CUDA build over CPU torch: importable; nms and roi cannot be called, but are not used here",
        "broken": "cannot be imported: built for a different torch",
        "absent": "",
    }[state]
    status: Presence = "missing" if state == "absent" else "broken" if state == "broken" else "there"
    repair = (
        f"{sys.executable} -m dira_scale.base.machine.torchvision_ops"
        if state == "broken"
        else install_command("train")
    )
    return Component("torchvision", status, detail, "timm's backbones and accelerate launch import it", repair)


def _dicom(decoders: Mapping[str, bool]) -> Component:
    gives = "reading every compressed DICOM file"
    if lacking := [name for name, available in decoders.items() if not available]:
        detail = f"cannot read {', '.join(lacking)}"
        return Component("DICOM decoders", "missing", detail, gives, install_command())
    return Component("DICOM decoders", "there", f"all {len(decoders)} transfer syntaxes of pydicom", gives, "")


def _dali() -> Component:
    gives = "data.loader=dali: decoding and cropping on the GPU"
    candidates = [_package("DALI", gives, f"nvidia-dali-cuda{n}", dali_extra()) for n in ("130", "120")]
    return next((component for component in candidates if component.state != "missing"), candidates[0])


def _ffcv() -> Component:
    debian = "apt-get install -y g++ pkg-config libturbojpeg0-dev libopencv-dev"
    component = _package("FFCV", "data.loader=ffcv: 8-bit images in FFCV's format", "ffcv", "ffcv")
    return component if component.state == "there" else replace(component, install=f"{debian} && {component.install}")


def _slurm() -> Component:
    gives = "runs on a cluster's nodes "
    if not shutil.which("sbatch"):
        debian = "apt-get install -y slurm-client   (and the cluster's slurm.conf), or log in where sbatch is"
        return Component("SLURM", "missing", "", gives, debian)
    try:
        command = ["sinfo", "--noheader", "--format=%P %D %G"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return Component("SLURM", "broken", "sinfo does not answer", gives, "scontrol ping   (is the controller up?)")
    if answer.returncode:
        return Component("SLURM", "broken", answer.stderr.strip(), gives, "scontrol ping   (is the controller up?)")
    return Component("SLURM", "there", "; ".join(answer.stdout.split("\n")).strip("; "), gives, "")


def _package(name: str, gives: str, distribution: str, extra: str = "") -> Component:
    """A Python package: its version, and whether it can be imported."""
    command = install_command(extra)
    try:
        installed = version(distribution)
    except PackageNotFoundError:
        return Component(name, "missing", "", gives, command)
    module = "nvidia.dali" if distribution.startswith("nvidia-dali") else distribution
    tried = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True)
    if tried.returncode:
        return Component(name, "broken", f"{installed}: {tried.stderr.strip().splitlines()[-1]}", gives, command)
    return Component(name, "there", installed, gives, "")
