"""The software and hardware of a run: versions, commit, machine."""

import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from dira_scale import __version__
from dira_scale.train.distributed.collectives import world

PACKAGES = ("torch", "accelerate", "timm", "segmentation_models_pytorch", "numpy", "imagecodecs", "pillow")


def environment() -> dict[str, Any]:
    checkout, commit = Path(__file__).parents[3], ""  # no commit outside a checkout
    if (checkout / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(checkout), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    values: dict[str, Any] = {
        "dira_scale": __version__,
        "commit": commit or None,  # with a + if files differ from it
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "command": " ".join(sys.argv),
        "cores": psutil.cpu_count(logical=False),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "processes": world(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    return values | {package: version_of(package) for package in PACKAGES}


def version_of(package: str) -> str | None:
    """The installed version of ``package``, by its import name; None if it is not installed."""
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return None
