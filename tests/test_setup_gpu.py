"""`setup/gpu.py`: what a GPU container's Python lacks is carried there, and one call and more runs with that."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from harness import SECONDS
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.gpu.machine import CARRIED, REQUIRED
from benchmarks.gpu.parts import SECONDS as ONE_CALL
from benchmarks.gpu.steps import PARTS as LADDERS
from benchmarks.gpu.table import text
from benchmarks.gpu.traces import DEAREST

ROOT = Path(__file__).parents[1]
# Packages of the container, with all that they depend on.
PRESENT = (
    *REQUIRED, "torchvision", "triton", "accelerate", "safetensors", "scipy", "pyyaml", "psutil", "pyarrow",
    "scikit-image", "scikit-learn", "opencv-python-headless", "tensorboard", "pip",
)  # fmt: skip
# The others run what these do, of other recipes.
REHEARSED = (*[part for part in ONE_CALL if part != "ladder"], "basics", "nccl", "evaluation", "tests")
SHIM = "dira_scale_torchvision_ops"  # the set-up's hook, which a torchvision over a CPU torch needs


def pretended(folder: Path, packages: Iterable[str]) -> Path:
    """A Python in ``folder`` with ``packages``, as far as this one has them, and what they depend on, by links.

    Nothing else can be found there: neither by an import nor among the installed distributions.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for dist in closure(packages):
        for top in sorted(tops(dist)):
            link, target = site / top, Path(str(dist.locate_file(top)))
            link.parent.mkdir(exist_ok=True)
            if not link.exists() and target.exists():
                link.symlink_to(target)
    for path in Path(str(distribution("torch").locate_file(""))).glob(f"{SHIM}.*"):
        (site / path.name).symlink_to(path)
    return folder / "bin" / "python"


def closure(packages: Iterable[str]) -> list[Distribution]:
    """The installed ones of ``packages`` and of all that they require, without extras."""
    waiting, distributions = list(packages), dict[str, Distribution]()
    while waiting:
        name = str(canonicalize_name(waiting.pop()))
        try:
            distributions[name] = distributions.get(name) or distribution(name)
        except PackageNotFoundError:  # of another platform or Python, say
            continue
        needs = [Requirement(need) for need in distributions[name].requires or [] if "extra ==" not in need]
        waiting += [need.name for need in needs if canonicalize_name(need.name) not in distributions]
    return list(distributions.values())


def tops(dist: Distribution) -> set[str]:
    """What a distribution has in site-packages: files and folders, and of a folder that others share (a namespace, such
    as ``nvidia``) those in it."""
    if dist.read_text("RECORD") is None:  # pip without wheel leaves setup.py's list, of its sources
        return set((dist.read_text("top_level.txt") or "").split())
    tops = set()
    for path in dist.files or []:
        first, folder = path.parts[0], Path(str(dist.locate_file(path.parts[0])))
        own = len(path.parts) < 3 or first.endswith((".dist-info", ".libs")) or (folder / "__init__.py").exists()
        tops.add(first if own else f"{first}/{path.parts[1]}")
    return tops - {"..", "__pycache__"}


# Sets the flag IFF_UP of a new network's only interface, which process groups need, and goes on as the command given.
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.system
@pytest.mark.timeout(12600)
def test_gpu_check_needs_no_network_and_no_set_up(tmp_path: Path) -> None:
    """A plain checkout; a Python with a GPU container's packages; the wheels; no way out."""
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", ROOT, checkout], check=True)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    bare = pretended(tmp_path / "bare", PRESENT)
    # A part has its share of the seconds: of 2,000 too few for slow cores, where the first part takes 100 s alone.
    check = [bare, checkout / "setup" / "gpu.py", "check", "--rehearse", "--seconds", "12000", "--parts", *REHEARSED]
    offline = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", LOOPBACK_UP]

    lacking = subprocess.run([*offline, *check], capture_output=True, text=True)
    assert lacking.returncode == 2 and lacking.stderr.count("\n") == 1
    assert "hydra-core" in lacking.stderr and "python3 setup/gpu.py wheels" in lacking.stderr

    collected = subprocess.run(
        [sys.executable, checkout / "setup" / "gpu.py", "wheels", version], capture_output=True, text=True
    )
    assert collected.returncode == 0, collected.stderr
    out = tmp_path / "named"
    done = subprocess.run([*offline, *check], capture_output=True, text=True, env=os.environ | {"OUT": str(out)})
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in out.iterdir()} == {"gpu.json", "gpu.txt", "logs.tar.gz"}
    found = json.loads((out / "gpu.json").read_text())
    assert all(part["fine"] for part in found["parts"].values()) and list(found["parts"]) == list(REHEARSED)
    measured = {part: found[part]["items"] for part in REHEARSED}
    assert not any(found[part]["not_run"] for part in REHEARSED)
    left_out = {
        name: item["left_out"] for each in measured.values() for name, item in each.items() if "left_out" in item
    }
    assert {Path(name).name: why.split()[0] for name, why in left_out.items()} == {
        "ZeRO-3": "deepspeed", "test_dali.py": "nvidia"
    }  # fmt: skip
    rungs = {part: [rung.name for rung in each] for part, each in LADDERS.items() if part in REHEARSED}
    assert all(set(names) <= measured[part].keys() for part, names in rungs.items())
    traced = [item["figures"]["first step"]["note"] for item in measured["compile"].values()]
    assert len(traced) == 3 and not any(" 0 graphs" in note for note in traced)
    assert all(len(item["kernels"]) == DEAREST for item in measured["profile"].values())
    rows = [row for each in measured.values() for item in each.values() for row in item.get("figures", {}).values()]
    assert all(row["value"] >= 0 and row["fine"] for row in rows) and len(rows) > 100
    named = {tuple(row["expected"]) for row in rows if isinstance(row["expected"], list)}
    assert len(named) > 15 and all(found["expected"][step][what] > 0 for step, what in named)
    assert all({"steps fed by helper"} < row["figures"].keys() for row in measured["loaders"].values())
    assert {"cpu", "released"} < measured["headline"]["batch 256"]["figures"].keys()
    shown = text(found, tables=False)
    assert shown in done.stdout and (out / "gpu.txt").read_text().startswith(shown)
    assert subprocess.run(["git", "-C", checkout, "status", "--porcelain"], capture_output=True, text=True).stdout == ""


MEASURED = (
    "parts", "traces", "alone", "steps", "headline", "loaders", "graph", "compiling", "basics", "steady", "nccl",
    "evaluation", "checks", "expected",
)  # fmt: skip


def test_what_is_measured_imports_nothing_that_is_neither_there_nor_carried(tmp_path: Path) -> None:
    """The container has the least that may be there. The test above runs all parts."""
    python = pretended(tmp_path / "python", (*REQUIRED, *CARRIED))
    lacks = (
        "import importlib.util as u; assert u.find_spec('torch') and not u.find_spec('nibabel'), 'nothing is hidden'"
    )
    code = f"{lacks}; import {', '.join(f'benchmarks.gpu.{name}' for name in MEASURED)}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=SECONDS, env=environment)
    assert done.returncode == 0, done.stderr
