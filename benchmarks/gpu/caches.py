"""Compiled code that outlives a machine: inductor's and Triton's caches, kept beside the report for the next time.

Both keep files in a folder of their own, and find them again by hashes of the code, the versions and the GPU, wherever
the folder lies. It is packed into parts of at most 16 MiB, which are named by the GPU and torch. (torch's
``save_cache_artifacts`` would leave Triton kernels of ours out, and what it loads is the last that was saved alone.)
"""

import gzip
import io
import re
import tarfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from dira_scale.base.machine.hardware import hardware
from dira_scale.base.storage.atomic import write_atomic

PART, PARTS = 16 * 2**20, 5  # bytes of a file, and files, that come back from a machine beside the report
NAME = "caches"


def folders(logs: Path) -> dict[str, str]:
    """The environment of a process whose compiled code is kept: beside its logs, which are packed by themselves."""
    home = logs.parent / NAME
    return {"TORCHINDUCTOR_CACHE_DIR": str(home / "inductor"), "TRITON_CACHE_DIR": str(home / "triton")}


def stem() -> str:
    """Return the name of the files of this GPU and torch, without a context on the GPU."""
    gpu = next((gpu.name for gpu in hardware().gpus), "CPU")
    return re.sub(r"[^\w.-]", "-", f"{NAME}-{gpu}-torch-{torch.__version__}.tar.gz")


def write(logs: Path, out: Path) -> int:
    """Pack the caches so far into ``out``, in the place of those before; returns their bytes, 0 where they are none or
    too many."""
    home, packed = logs.parent / NAME, io.BytesIO()
    if not home.is_dir() or not any(home.rglob("*.*")):
        return 0
    try:
        with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
            tar.add(home, NAME)
    except FileNotFoundError as error:  # a compiler's process has moved a file of its own
        print(f"caches: not packed this time, {error}")
        return 0
    content = packed.getvalue()
    parts = [content[start : start + PART] for start in range(0, len(content), PART)]
    if len(parts) > PARTS:
        print(f"caches: {len(content) / 2**20:.0f} MiB are more than {PARTS} files of {PART >> 20} MiB hold")
        return 0
    for number, part in enumerate(parts):
        write_atomic(out / f"{stem()}.{number}", part)
    for number in range(len(parts), PARTS):
        (out / f"{stem()}.{number}").unlink(missing_ok=True)  # of another time
    return len(content)


def read(folder: Path, logs: Path) -> str:
    """Unpack what :func:`write` left in ``folder``; says what there was."""
    parts, others = sorted(folder.glob(f"{stem()}.*")), sorted(path.name for path in folder.glob(f"{NAME}-*.0"))
    if not parts:
        return f"none in {folder} of this GPU and torch, {stem()}.0; there is {', '.join(others) or 'nothing'}"
    content = b"".join(path.read_bytes() for path in parts)
    try:
        whole = gzip.decompress(content)  # at once: tarfile takes a damaged end for the end
        with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
            how: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from Python 3.11.4 on
            tar.extractall(logs.parent, **how)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        return f"those in {folder} cannot be read ({error}), so all is compiled anew"
    return f"{len(content) / 2**20:.1f} MiB of {folder}"


def hits() -> str:
    """Say how many graphs were traced so far, how many of their passes were compiled, and how many found in caches."""
    passes = counters["inductor"]
    traced, hit, missed = counters["stats"]["unique_graphs"], passes["fxgraph_cache_hit"], passes["fxgraph_cache_miss"]
    return f"{traced} graphs so far; of their passes {missed} compiled, {hit} from caches"
