"""The machine and its GPU's limits: copies, a bf16 product, launches, decoding, 3D convolutions. Takes forty seconds.

    python -m benchmarks.gpu.basics OUT [--rehearse]

The upper limits for the rungs of the ladder, measured on this device; how fast it decodes JPEG
(benchmarks/gpu/nvjpeg.py); and whether its bf16 3D convolutions are fast and right (benchmarks/gpu/conv3d.py).
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch

from benchmarks.gpu import conv3d, nvjpeg
from benchmarks.gpu.clock import seconds
from benchmarks.gpu.peaks import peak
from benchmarks.gpu.report import Report

OPTIONAL = {"nvidia-dali-cuda130": "DALI", "ffcv": "FFCV", "deepspeed": "DeepSpeed"}
PACKAGES = ("torchvision", "timm", "accelerate", "triton", "numpy")


def environment() -> dict[str, str]:
    """Device, driver, libraries, processors; which optional packages there are."""
    result = {"Python": platform.python_version(), "torch": torch.__version__, "system": platform.release()}
    result["processors"] = f"{len(os.sched_getaffinity(0))}, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        result["GPU"] = f"{device.name}, {device.total_memory / 2**30:.1f} GiB, {device.multi_processor_count} SMs"
        result["CUDA"] = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, driver {driver()}"
    else:
        result["GPU"] = "none"
    for package in PACKAGES:
        result[package] = installed(package) or "not there"
    for package, name in OPTIONAL.items():
        result[name] = installed(package) or "not there; what needs it is left out"
    return result


def installed(package: str) -> str | None:
    """Its version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def driver() -> str:
    """As nvidia-smi tells it."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split("\n")[0] or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def ceilings(device: torch.device, small: bool) -> dict[str, str]:
    """Copies on the device and over the bus, a product, and how long the host takes to launch an operation."""
    cuda = device.type == "cuda"
    count = 2**20 if small else 2**30  # bytes of a copy on the device, a quarter of it over the bus
    source = torch.empty(count, dtype=torch.uint8, device=device).random_()
    target = torch.empty_like(source)
    copied = seconds(lambda: target.copy_(source), device)
    result = {"copy on the device": f"{2 * count / copied / 1e9:.1f} GB/s, read and written"}
    for kind in ("pageable", "pinned") if cuda else ():
        host = torch.empty(count // 4, dtype=torch.uint8, pin_memory=kind == "pinned")
        there, here = target[: count // 4], source[: count // 4]
        to, back = (
            seconds(lambda: there.copy_(host, non_blocking=True), device),  # noqa: B023  # run at once
            seconds(lambda: host.copy_(here, non_blocking=True), device),  # noqa: B023
        )
        result[f"copy of {kind} memory"] = f"{count / 4e9 / to:.1f} GB/s to the device, {count / 4e9 / back:.1f} back"
    side = 256 if small else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    reached = 2 * side**3 / seconds(lambda: a @ b, device) / 1e12
    most = peak(torch.cuda.get_device_name(), "bf16") if cuda else None
    share = f", {100 * reached / most:.0f} % of the vendor's figure" if most else ""
    result["bf16 product"] = f"{reached:.1f} TFLOP/s ({side}³, random){share}"
    item, launches = torch.zeros(1, device=device), 1000
    taken = seconds(lambda: [item.add_(1) for _ in range(launches)], device) / launches
    result["an operation's launch"] = f"{1e6 * taken:.1f} µs"
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    asked = parser.parse_args(argv)
    report = Report(asked.out)
    report.add(environment=environment())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    basics = ceilings(device, asked.rehearse)
    report.add(basics=basics)
    report.add(basics=basics | nvjpeg.rates(device, asked.rehearse))
    report.add(conv3d=conv3d.probe(device, asked.rehearse))
    return 0


if __name__ == "__main__":
    sys.exit(main())
