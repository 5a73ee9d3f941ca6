"""What the processes check together before the first step: what divides, and what all of them must have alike.

Each problem is one message that names both sides and what would do. (What the launcher did is checked before they are
connected: distributed/launcher.py.)
"""

import hashlib
import platform
import socket
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from omegaconf import DictConfig

from dira_scale.config.compose import leaves
from dira_scale.distributed import control
from dira_scale.errors import UserError
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.schedule import batches_of
from dira_scale.runs.folder import PACKAGES

# Keys that each machine may have its own of.
OWN = ("data.shards", "data.workers", "data.prefetch", "parallel.threads")
DIGITS = 12  # of a hash, in messages
SIGHT = 60.0  # seconds until a network file system must show a file that another machine has written


def check_division(config: Pretrain, ranks: int) -> None:
    """Raise ``UserError`` where batch, lanes or BatchNorm groups of a stage do not divide over so many processes."""
    for batch in sorted(set(batches_of(config).values())):
        if misfits := _misfits(config, batch, ranks):
            fit = ", ".join(map(str, fitting(config)))
            would = f"the processes can be {fit}" if fit else "no number of processes fits, change one of these keys"
            raise UserError(f"{'; '.join(misfits)}; {would}")


def fitting(config: Pretrain) -> list[int]:
    """The numbers of processes over which every stage divides."""
    batches = set(batches_of(config).values())
    return [n for n in range(1, min(batches) + 1) if not any(_misfits(config, batch, n) for batch in batches)]


def check_alike(cfg: DictConfig, datasets: Sequence[str]) -> None:
    """Compare code, packages, configuration and data of all processes, and their GPUs; every process calls it.

    Args:
        cfg: the resolved configuration.
        datasets: the hashes of the datasets in ``data.shards``.

    Raises:
        AgreedError: names processes, machines and what differs, or the processes that share a GPU.
    """
    facts = {"the code of dira_scale": _code(), "python": platform.python_version()}
    facts |= {package: _version(package) for package in (*PACKAGES, "deepspeed", "transformers")}
    facts |= {key: str(value) for key, value in leaves(cfg) if not key.startswith(OWN)}
    facts |= {f"the content of dataset {i + 1} of data.shards": digest[:DIGITS] for i, digest in enumerate(datasets)}
    if cfg.model.weights is not None and Path(cfg.model.weights).is_file():
        with Path(cfg.model.weights).open("rb") as file:
            facts["the file model.weights"] = hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
    control.refuse_differences(facts)
    gpu = str(torch.cuda.get_device_properties().uuid) if torch.cuda.is_available() else ""
    gpus = control.gathered((socket.gethostname(), gpu))
    (host, shared), count = Counter(gpus).most_common(1)[0]
    if shared and count > 1:
        ranks = ", ".join(str(i) for i, of in enumerate(gpus) if of == (host, shared))
        raise control.AgreedError(
            f"ranks {ranks} share GPU {shared} of {host}: start one process a GPU (--nproc_per_node, --num_processes, "
            "--gpus-per-node)"
        )


def check_shared(run: Path, lease: str) -> None:
    """Raise ``UserError`` where this process does not see the file ``lease`` that the main one made in the folder."""
    deadline = time.monotonic() + SIGHT
    # Listed, not looked up: a network file system remembers for a while that a name was not there.
    while not (run / "leases").is_dir() or not any(file.name == lease for file in (run / "leases").iterdir()):
        if time.monotonic() > deadline:
            raise UserError(
                f"run={run} is another folder here than on the main process's machine: it must lie on a file system "
                "that all nodes share, under the same path"
            )
        time.sleep(0.5)


def _misfits(config: Pretrain, batch: int, ranks: int) -> list[str]:
    accumulate, groups, lanes = config.parallel.accumulate, config.model.bn_groups, config.data.lanes or batch
    parts = ranks * accumulate
    over = f"{ranks} ranks x parallel.accumulate={accumulate}"
    found = []
    if batch % parts:
        found.append(f"data.batch={batch} is not divided by {over}")
    if lanes % ranks:
        found.append(f"{ranks} ranks do not divide data.lanes={lanes}")
    if groups > 0 and groups % parts and not (accumulate == 1 and ranks % groups == 0):
        found.append(f"model.bn_groups={groups} BatchNorm groups do not divide over {over}")
    return found


def _code() -> str:
    """Hash of the package's Python files."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:DIGITS]


def _version(package: str) -> str:
    try:
        return version(package.replace("_", "-"))
    except PackageNotFoundError:
        return "none"
