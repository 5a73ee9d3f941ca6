"""Cores, memory, disk and GPUs that this process may use (in a container fewer than the machine has)."""

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil

BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86, x86 tiles, ARM, as /proc/cpuinfo names them
ANSWER_SECONDS = 60  # for nvidia-smi; it takes several seconds if the driver must be loaded first
CGROUP = Path("/sys/fs/cgroup")  # a container's limits (control groups, version 2)
CPUS_PER_TASK = "DIRA_SCALE_CPUS_PER_TASK"  # set by a sweep on this machine: cores of a process


@dataclass(frozen=True)
class Gpu:
    name: str
    memory_gib: float | None  # None: not reported by the driver, as with memory shared with the CPU
    driver: str
    capability: float | None  # CUDA compute capability; bf16 from 8.0 on


@dataclass(frozen=True)
class Hardware:
    gpus: tuple[Gpu, ...]
    cpu: str
    cores: int  # physical cores that this process may use
    threads: int  # hardware threads that this process may use
    bf16: tuple[str, ...]  # those of BF16_FLAGS that the CPU has
    memory_gib: float
    free_memory_gib: float
    free_disk_gib: float  # where the current folder is
    no_gpu: str = ""  # why nvidia-smi, if present, shows no GPU


def hardware() -> Hardware:
    info = _cpuinfo()
    threads = usable_cpus()
    total = psutil.virtual_memory().total
    free = psutil.virtual_memory().available
    limit = _cgroup("memory.max")
    if limit is not None:
        free = min(free, limit - (_cgroup("memory.current") or 0))
    present, no_gpu = gpus()
    return Hardware(
        gpus=present,
        cpu=info.get("model name", platform.processor() or platform.machine()),
        cores=min(threads, psutil.cpu_count(logical=False) or threads),
        threads=threads,
        bf16=cpu_bf16(),
        memory_gib=min(total, limit or total) / 2**30,
        free_memory_gib=free / 2**30,
        free_disk_gib=shutil.disk_usage(".").free / 2**30,
        no_gpu=no_gpu,
    )


def gpus() -> tuple[tuple[Gpu, ...], str]:
    """The GPUs that the NVIDIA driver shows, whatever build of torch is installed; the reason if it fails."""
    if not shutil.which("nvidia-smi"):
        return (), ""
    fields = "name,memory.total,driver_version,compute_cap"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        return (), f"nvidia-smi did not answer within {ANSWER_SECONDS} s: the driver hangs"
    if answer.returncode:
        return (), " ".join(f"nvidia-smi: {answer.stdout} {answer.stderr}".split())
    present = []
    for line in filter(str.strip, answer.stdout.splitlines()):
        name, mib, driver, capability = (cell.strip() for cell in line.rsplit(",", 3))
        memory = _number(mib)
        present.append(Gpu(name, None if memory is None else memory / 1024, driver, _number(capability)))
    return tuple(present), ""


def _number(cell: str) -> float | None:
    """A number printed by nvidia-smi; None for ``[N/A]`` and the like."""
    return None if cell.startswith("[") else float(cell)


def usable_cpus() -> int:
    """Hardware threads after CPU affinity and a container's quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = CGROUP / "cpu.max"
    if quota.exists():
        allowed, period = quota.read_text().split()
        if allowed != "max":
            usable = min(usable, max(1, int(allowed) // int(period)))
    return usable


def _cgroup(name: str) -> int | None:
    """A container's limit or usage in bytes; None without a limit."""
    path = CGROUP / name
    text = path.read_text().strip() if path.exists() else "max"
    return None if text == "max" else int(text)


def cpu_bf16() -> tuple[str, ...]:
    """Return which of BF16_FLAGS the CPU has."""
    info = _cpuinfo()
    return tuple(flag for flag in BF16_FLAGS if flag in info.get("flags", info.get("Features", "")).split())


@cache
def bf16_without_amx() -> bool:
    """Return whether the CPU has bfloat16 by AVX-512 alone: oneDNN gets some gradients wrong there
    (train/models/bf16.py)."""
    return "avx512_bf16" in cpu_bf16() and "amx_bf16" not in cpu_bf16()


def _cpuinfo() -> dict[str, str]:
    """The first processor's paragraph of /proc/cpuinfo (none outside Linux)."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
