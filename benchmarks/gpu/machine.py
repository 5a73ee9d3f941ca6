"""What the Python of a GPU container has, what is carried to it, and a Python that has no more, to rehearse with.

Needs only the standard library, as ``setup/gpu.py`` reads the lists before anything is installed.
"""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

# Packages of the container, with all that they depend on. Without the first three nothing can be measured.
REQUIRED = ("torch", "timm", "numpy")
PRESENT = (
    *REQUIRED, "torchvision", "triton", "accelerate", "safetensors", "scipy", "pyyaml", "psutil", "pyarrow",
    "scikit-image", "scikit-learn", "opencv-python-headless", "tensorboard", "torchmetrics", "pip",
)  # fmt: skip
# Package -> a module to test for its presence: what the check needs besides, if the container lacks it, as wheels.
# pyarrow, scipy, scikit-image, scikit-learn, OpenCV and TensorBoard are too large to be carried.
CARRIED = {
    "hydra-core": "hydra", "omegaconf": "omegaconf", "antlr4-python3-runtime": "antlr4", "pyyaml": "yaml",
    "accelerate": "accelerate", "psutil": "psutil", "safetensors": "safetensors", "xxhash": "xxhash",
    "segmentation-models-pytorch": "segmentation_models_pytorch", "packaging": "packaging", "tqdm": "tqdm",
    "pytest": "pytest", "pytest-timeout": "pytest_timeout", "pluggy": "pluggy", "iniconfig": "iniconfig",
    "pygments": "pygments",
    "rich": "rich", "markdown-it-py": "markdown_it", "mdurl": "mdurl", "pydicom": "pydicom",
    "imagecodecs": "imagecodecs", "simplejpeg": "simplejpeg",
}  # fmt: skip
SHIM = "dira_scale_torchvision_ops"  # the set-up's hook, which a torchvision over a CPU torch needs


def missing() -> list[str]:
    """Those of ``CARRIED`` that this Python lacks."""
    return [name for name, module in CARRIED.items() if importlib.util.find_spec(module) is None]


def pretended(folder: Path, packages: Iterable[str] = (*PRESENT, *CARRIED)) -> Path:
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
        name = canonical(waiting.pop())
        try:
            distributions[name] = distributions.get(name) or distribution(name)
        except PackageNotFoundError:  # of another platform or Python, say
            continue
        needs = (re.match(r"[\w.-]+", need) for need in distributions[name].requires or [] if "extra ==" not in need)
        waiting += [need[0] for need in needs if need and canonical(need[0]) not in distributions]
    return list(distributions.values())


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def tops(dist: Distribution) -> set[str]:
    """What a distribution has in site-packages: files and folders, and of a folder that others share (a namespace, such
    as ``nvidia``) those in it."""
    tops = set()
    for path in dist.files or []:
        first = path.parts[0]
        if first in ("..", "__pycache__"):
            continue
        shared = len(path.parts) > 2 and not first.endswith((".dist-info", ".libs")) and not _is_package(dist, first)
        tops.add(f"{first}/{path.parts[1]}" if shared else first)
    if any(Path(str(dist.locate_file(top))).exists() for top in tops):
        return tops
    return set((dist.read_text("top_level.txt") or "").split())  # installed by setup.py, which lists sources


def _is_package(dist: Distribution, folder: str) -> bool:
    return Path(str(dist.locate_file(folder)), "__init__.py").exists()
