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
    "nvidia.dali": {"dira_scale.data.loaders.dali"},
    "nibabel": {
        "dira_scale.phantom.ct.dataset",
        "dira_scale.archive.sources.phantom_ct",
    },
    "SimpleITK": {
        "dira_scale.phantom.ct.dataset", "dira_scale.archive.sources.phantom_ct",
        "benchmarks.shard.__main__", "benchmarks.shard.speed",
    },
    "matplotlib": {
        "dira_scale.pages.figure", "dira_scale.report.plots", "dira_scale.report.health",
        "dira_scale.report.page", "dira_scale.pages.tables.figures", "dira_scale.pages.tables.page",
        "dira_scale.shard.curate.stats_page", "dira_scale.report.several", "dira_scale.report.neighbours",
    },
    "litdata": {"benchmarks.loader.peers"},
    "medrs": {"benchmarks.loader3d.peers"},
    "torchio": {"benchmarks.loader3d.peers"},
}  # fmt: skip
LAZY = ("tensorboard", "SimpleITK", "nibabel", "matplotlib", "blosc2")  # required, but only where they are used
ELSEWHERE = ("litdata", "streaming", "nnunetv2", "medrs", "torchio")  # in an environment of their own


def packages(extras: dict[str, list[str]]) -> dict[str, set[str]]:
    """What ``extras`` bring, as it is imported, with the names that it is installed by."""
    found: dict[str, set[str]] = {"mkdocs": {"mkdocs"}}  # mkdocs-material brings it
    for name in (Requirement(line).name for lines in extras.values() for line in lines if "types-" not in line):
        found.setdefault(MODULES.get(name, name.replace("-", "_")), set()).add(name)
    return found


EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
INSTALLED_AS = packages(EXTRAS)
TOGETHER = {"all extras": (*INSTALLED_AS, "nvidia", "torchvision"), "lazy ones": LAZY}
OURS = {name: lines for name, lines in EXTRAS.items() if name not in ("test", "docs")}  # which our modules use
ALONE = sorted({*packages(OURS), *LAZY, "nvidia"} - {"mkdocs"})
FIRST = {*LAZY, "deepspeed", "monai", "nvidia", "onnx", "upath", "wandb"}  # of ALONE: each is missed by other modules


@pytest.mark.parametrize(
    "hidden",
    [pytest.param(TOGETHER["all extras"], id="all extras")]
    + [pytest.param(TOGETHER["lazy ones"], id="lazy ones", marks=pytest.mark.system)]
    + [pytest.param((n,), id=n, marks=pytest.mark.system if n in FIRST else pytest.mark.torture) for n in ALONE],
)
def test_without_a_package_all_else_works(hidden: tuple[str, ...]) -> None:
    """Several at once in `make test`; alone, each shows what the absence of another hides."""
    absent = [*hidden, *ELSEWHERE, *(package for package in INSTALLED_AS if not installed(package))]
    distributions = [name for package, names in INSTALLED_AS.items() if within(package, absent) for name in names]
    words = [",".join(names) for names in (absent, [*absent, *distributions])]  # the others are installed by their name
    command = [sys.executable, str(ROOT / "tests" / "absent.py"), *words]
    found = json.loads(finish(command).splitlines()[-1])
    assert found["wrong"] == []
    known = [*absent, *(one.partition(".")[0] for one in absent)]  # there may be no nvidia around nvidia.dali
    assert {name: error for name, error in found["failed"].items() if not within(error, known)} == {}
    may = [names for package, names in MAY_NEED.items() if within(package, absent)]
    assert found["failed"].keys() == set().union(*may)
