"""Where a package is missing, every module that can do without it is imported, and everything that chooses by what is
installed chooses, or refuses in one line. CI has all packages; who installs only some must not be the first to try."""

import json
import sys
import tomllib
from pathlib import Path

import pytest
from absent import within
from harness import finish
from needs import installed
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
# Packages whose modules are not called as they are.
MODULES = {
    "universal-pathlib": "upath", "nvidia-dali-cuda130": "nvidia.dali", "nvidia-dali-cuda120": "nvidia.dali",
    "mlflow-skinny": "mlflow", "pytest-xdist": "xdist", "mkdocs-material": "material",
    "pytorch-ignite": "ignite",
}  # fmt: skip
# Our modules that cannot be imported without a package. All others can: they import it where it is used, or never.
MAY_NEED = {
    "nvidia.dali": {"dira_scale.train.data.loaders.dali"},
    "nibabel": {
        "dira_scale.archive.phantom.ct.dataset", "dira_scale.archive.sources.phantom_ct",
        "benchmarks.shard.__main__", "benchmarks.shard.speed",
    },
    "matplotlib": {
        "dira_scale.judge.pages.figure", "dira_scale.report.plots", "dira_scale.report.health",
        "dira_scale.report.page", "dira_scale.judge.pages.tables.figures", "dira_scale.judge.pages.tables.page",
        "dira_scale.shard.curate.stats_page", "dira_scale.report.several", "dira_scale.report.neighbours",
        "dira_scale.shard.curate.balance.page",
    },
    "monai": {"dira_scale.train.models.volume.swin_block"},
    "triton": {
        ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in (ROOT / "dira_scale").rglob("*_triton.py")
    },
    "torchvision": {"benchmarks.headline"},
    "litdata": {"benchmarks.loader.peers"},
    "medrs": {"benchmarks.loader3d.peers"},
    "torchio": {"benchmarks.loader3d.peers"},
    "nnunetv2": {"benchmarks.segmentation.nnunet.budget"},
}  # fmt: skip
LAZY = ("tensorboard", "nibabel", "matplotlib", "blosc2")  # required, but only where they are used
ELSEWHERE = ("litdata", "streaming", "nnunetv2", "medrs", "torchio")  # in an environment of their own


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# `train` is another matter: tests/system/test_wheel.py.
OTHERS = [line for extra, lines in EXTRAS.items() if extra != "train" for line in lines if "types-" not in line]
NAMES = {Requirement(line).name for line in OTHERS} - {"dira_scale"}
OPTIONAL = sorted({"mkdocs", *(MODULES.get(name, name.replace("-", "_")) for name in NAMES)})  # as they are imported
ALONE = ("deepspeed", "onnx")  # each is asked for beside another of its extra, whose absence would be refused first


@pytest.mark.parametrize(
    "hidden",
    [pytest.param((*OPTIONAL, "nvidia", "torchvision"), id="all extras")]
    + [pytest.param(LAZY, id="lazy ones", marks=pytest.mark.system)]
    + [pytest.param((name,), id=name, marks=pytest.mark.system) for name in ALONE],
)
def test_without_a_package_all_else_works(hidden: tuple[str, ...]) -> None:
    """All extras at once in `make test`; others show what the absence of those hides."""
    absent = [*hidden, *ELSEWHERE, *(package for package in OPTIONAL if not installed(package))]
    found = json.loads(finish([sys.executable, str(ROOT / "tests" / "absent.py"), ",".join(absent)]).splitlines()[-1])
    assert found["wrong"] == []
    known = [*absent, *(one.partition(".")[0] for one in absent)]  # there may be no nvidia around nvidia.dali
    assert {name: error for name, error in found["failed"].items() if not within(error, known)} == {}
    may = [names for package, names in MAY_NEED.items() if within(package, absent)]
    assert found["failed"].keys() == set().union(*may)
