"""Pieces of software that this project uses or could use: there, missing or broken; what for, and how to get them."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch

from dira_scale.machine import torchvision_ops
from dira_scale.machine.hardware import Hardware

State = Literal["there", "missing", "broken"]
CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Piece:
    """One piece of software on this machine."""

    name: str
    state: State
    detail: str  # version and what is worth knowing; the reason where it is broken
    gives: str  # what having it gives
    install: str  # the exact command that installs or mends it


def pieces(hardware: Hardware) -> list[Piece]:
    """Look at all of them; imports are tried in fresh processes, a few at once."""
    probes: list[Callable[[], Piece]] = [
        lambda: _torch(hardware),
        _torchvision,
        _dicom,
        lambda: _package("imagecodecs", "PNG and high-throughput JPEG 2000, 8 and 16 bits", "imagecodecs"),
        lambda: _package("simplejpeg", "JPEG shards", "simplejpeg"),
        lambda: _package("tensorboard", "curves while a run goes on: tensorboard --logdir out/runs", "tensorboard"),
        lambda: _package(
            "DeepSpeed",
            "parallel=zero1, zero2, zero3: optimizer, gradients, parameters cut over processes",
            "deepspeed",
            "deepspeed",
        ),
        lambda: _package(
            "DALI", "decoding and cropping on the GPU (no loader uses it yet)", "nvidia-dali-cuda130", "dali"
        ),
        _ffcv,
        _slurm,
    ]
    with ThreadPoolExecutor(4) as pool:
        return [future.result() for future in [pool.submit(probe) for probe in probes]]


def install_command(extra: str = "") -> str:
    """How one of our extras is installed here without touching torch: from the checkout, or beside the wheel."""
    if _in_checkout():
        return f"cd {CHECKOUT} && python3 setup/install.py {extra}".rstrip()
    return f"{sys.executable} -m pip install 'dira_scale{f'[{extra}]' if extra else ''}' torch=={torch.__version__}"


def _in_checkout() -> bool:
    """Whether this is a checkout, with the set-up beside it, and not an installed wheel."""
    return (CHECKOUT / "setup" / "install.py").is_file()


def _torch(hardware: Hardware) -> Piece:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    gives = "training on this machine's GPUs"
    if not hardware.gpus or torch.cuda.is_available():
        return Piece("torch", "there", f"{torch.__version__}, {build}", gives, "")
    detail = f"{torch.__version__}, {build}: it cannot use the GPU"
    if _in_checkout():
        command = f"cd {CHECKOUT} && rm -rf .venv && ACCELERATOR=cuda make setup"
    else:
        plain = torch.__version__.partition("+")[0]
        command = f"{sys.executable} -m pip install --force-reinstall torch=={plain}   (in its CUDA build)"
    return Piece("torch", "broken", detail, gives, command)


def _torchvision() -> Piece:
    state = torchvision_ops.state()
    detail = {
        "native": "its own operators load",
        "declared": "a CUDA build over CPU torch: importable; nms and roi cannot be called, nothing here does",
        "broken": "cannot be imported: built for another torch",
        "absent": "",
    }[state]
    found: State = "missing" if state == "absent" else "broken" if state == "broken" else "there"
    mend = f"{sys.executable} -m dira_scale.machine.torchvision_ops" if state == "broken" else install_command()
    return Piece("torchvision", found, detail, "timm's backbones and accelerate launch need it to be importable", mend)


def _dicom() -> Piece:
    with suppress(ImportError):  # of imagecodecs, a piece of its own here
        import dira_scale.imaging.dicom.codestream  # noqa: F401 (it gives pydicom the decoders that we read with)
    from pydicom.pixels.decoders.base import _PIXEL_DATA_DECODERS as DECODERS

    kinds = [(uid.name, decoder.is_available) for uid, (decoder, *_) in DECODERS.items()]
    lacking = [name for name, available in kinds if not available]
    gives = "reading every compressed DICOM file"
    if lacking:
        return Piece("DICOM decoders", "missing", f"cannot read {', '.join(lacking)}", gives, install_command())
    return Piece("DICOM decoders", "there", f"all {len(kinds)} transfer syntaxes of pydicom", gives, "")


def _ffcv() -> Piece:
    debian = "apt-get install -y g++ pkg-config libturbojpeg0-dev libopencv-dev"
    piece = _package("FFCV", "8-bit shards read from memory maps (no loader uses it yet)", "ffcv", "ffcv")
    return piece if piece.state == "there" else replace(piece, install=f"{debian} && {piece.install}")


def _slurm() -> Piece:
    gives = "runs on a cluster's nodes (no verb submits jobs yet)"
    if not shutil.which("sbatch"):
        debian = "apt-get install -y slurm-client   (and the cluster's slurm.conf), or log in where sbatch is"
        return Piece("SLURM", "missing", "", gives, debian)
    try:
        command = ["sinfo", "--noheader", "--format=%P %D %G"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return Piece("SLURM", "broken", "sinfo does not answer", gives, "scontrol ping   (is the controller up?)")
    if answer.returncode:
        return Piece("SLURM", "broken", answer.stderr.strip(), gives, "scontrol ping   (is the controller up?)")
    return Piece("SLURM", "there", "; ".join(answer.stdout.split("\n")).strip("; "), gives, "")


def _package(name: str, gives: str, distribution: str, extra: str = "") -> Piece:
    """A Python package: its version, and whether it can be imported."""
    command = install_command(extra)
    try:
        found = version(distribution)
    except PackageNotFoundError:
        return Piece(name, "missing", "", gives, command)
    module = {"nvidia-dali-cuda130": "nvidia.dali"}.get(distribution, distribution)
    tried = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True)
    if tried.returncode:
        return Piece(name, "broken", f"{found}: {tried.stderr.strip().splitlines()[-1]}", gives, command)
    return Piece(name, "there", found, gives, "")
