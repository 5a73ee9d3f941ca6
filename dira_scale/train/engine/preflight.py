"""Checks of all processes before the first step: same code, packages and configuration, and the same run folder.

Each problem is one message that names both sides and what to do. (train/distributed/launcher.py checks the launcher
before the processes are connected.)
"""

import hashlib
import platform
import socket
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from omegaconf import DictConfig

from dira_scale.base.config.keys import leaves
from dira_scale.base.errors import UserError
from dira_scale.train.distributed import control
from dira_scale.train.distributed.collectives import rank
from dira_scale.train.runs.environment import PACKAGES, version_of

# Keys that may differ between machines.
PER_MACHINE = ("data.shards", "data.workers", "data.prefetch", "data.helper", "parallel.threads")
VISIBLE_SECONDS = 60.0  # within which a network file system must show a file that another machine has written
DIGITS = 12  # of a hash, in messages


def check_alike(cfg: DictConfig, facts: Mapping[str, str]) -> None:
    """Compare code, packages, configuration and GPUs of all processes. One of each machine reads the code. Collective.

    Args:
        cfg: the resolved configuration.
        facts: what else must be the same (the data), keyed by its name in the message.

    Raises AgreedError, which names processes, machines and what differs, or the processes that share a GPU.
    """
    on_gpu = torch.cuda.is_available() and cfg.parallel.device != "cpu"
    gpu, host = str(torch.cuda.get_device_properties().uuid) if on_gpu else "", socket.gethostname()
    gpus = control.gather_objects((host, gpu))
    looking = next(other for other, (name, _) in enumerate(gpus) if name == host)  # for all of this machine
    installed = control.gather_objects(_installed() if looking == rank() else {})[looking]
    keys = {key: str(value) for key, value in leaves(cfg) if not key.startswith(PER_MACHINE)}
    control.check_equal(installed | keys | dict(facts))
    (host, shared), count = Counter(gpus).most_common(1)[0]
    if shared and count > 1:
        ranks = ", ".join(str(rank) for rank, place in enumerate(gpus) if place == (host, shared))
        raise control.AgreedError(
            f"ranks {ranks} share GPU {shared} of {host}: start one process per GPU (--nproc_per_node, "
            "--num_processes, --gpus-per-node)"
        )


def _installed() -> dict[str, str]:
    """Hash the code and look up the packages on this machine."""
    package, code = Path(__file__).parents[2], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        code.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    versions = {name: str(version_of(name)) for name in (*PACKAGES, "deepspeed", "transformers")}
    return {"the code of dira_scale": code.hexdigest()[:DIGITS], "python": platform.python_version()} | versions


def check_shared(run: Path, lease: str) -> None:
    """Raise ``UserError`` if this process does not see the file ``lease`` that the main one made in the folder."""
    deadline = time.monotonic() + VISIBLE_SECONDS
    # List the folder instead of looking up the name: network file systems cache for a while that a name is absent.
    while not (run / "leases").is_dir() or not any(file.name == lease for file in (run / "leases").iterdir()):
        if time.monotonic() > deadline:
            raise UserError(
                f"run={run} is another folder here than on the main process's machine: it must be on a file system "
                "that all nodes share, under the same path"
            )
        time.sleep(0.5)
