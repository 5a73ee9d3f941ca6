"""The tests that need a GPU, file by file, each in its own process and all within a time limit.

    python -m benchmarks.gpu.checks OUT LOGS [--seconds 440] [--marker gpu]

A file whose tests fail only because packages that pyproject.toml names are missing, here or in a process that they
start, is skipped and the packages named; files for which there is no time left are left out. OUT/gpu.json has the
results, LOGS the output; `bench gpu` calls this.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu import bounded
from benchmarks.gpu.report import Report

ROOT = Path(__file__).parents[2]
NOTHING = 5  # pytest's exit code where a file has no such test
# What pytest says that was raised, here or in a process whose words are the reason.
ABSENT = re.compile(r"^E\s.*\bModuleNotFoundError: No module named '([\w.]+)'", re.MULTILINE)
HANDLED = "During handling of the above exception, another exception occurred"
# Packages whose modules are not called as they are.
MODULES = {
    "scikit-learn": "sklearn", "scikit-image": "skimage", "opencv-python-headless": "cv2", "pillow": "PIL",
    "pyyaml": "yaml", "hydra-core": "hydra", "universal-pathlib": "upath", "nvidia-dali-cuda130": "nvidia.dali",
    "nvidia-dali-cuda120": "nvidia.dali",
    "mlflow-skinny": "mlflow", "pytest-xdist": "xdist", "mkdocs-material": "material",
}  # fmt: skip


def marked(tests: Path, marker: str) -> list[Path]:
    """The files with tests of ``marker``."""
    return sorted(path for path in tests.rglob("test_*.py") if f"mark.{marker}" in path.read_text())


def check(path: Path, marker: str, out: Path, seconds: float) -> dict[str, Any]:
    """Run one file's tests of ``marker``; what became of them."""
    xml, log = out / f"{path.stem}.xml", out / f"{path.stem}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-m", marker, "-p", "no:cacheprovider", f"--junitxml={xml}"]
    row: dict[str, Any] = {"file": name(path)}
    began = time.perf_counter()
    with log.open("w") as file:
        code = bounded.run([*command, str(path)], seconds, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if code is None:
        return row | {"state": "stopped", "why": f"not done after {seconds:.0f} s"}
    row |= {"seconds": time.perf_counter() - began, "log": log.name}
    if code == NOTHING:
        return row | {"state": "left out", "why": f"no test of '{marker}'"}
    if not xml.exists():  # pytest itself failed
        return row | {"state": "failed", "why": f"exit code {code}, see {log.name}"}
    (suite,) = ElementTree.parse(xml).getroot().iter("testsuite")
    row |= {"tests": int(suite.get("tests", 0)), "skipped": int(suite.get("skipped", 0))}
    broken = ["".join(case.itertext()) for kind in ("failure", "error") for case in suite.iter(kind)]
    row |= {"broken": len(broken)}
    lacking = [lacks(text) for text in broken]
    if broken and all(lacking):
        packages = ", ".join(sorted(set().union(*lacking)))
        return row | {"state": "skipped", "why": f"{packages} is missing ({len(broken)} of {row['tests']} tests)"}
    return row | {"state": "passed" if code == 0 else "failed"}


def lacks(text: str) -> set[str]:
    """The packages for want of which a test broke that pytest tells of in ``text``; none if that is not all."""
    *handled, last = text.split(HANDLED)  # an absence that was expected is the last error before these words
    absent = [module for part in handled for module in ABSENT.findall(part)[:-1]] + ABSENT.findall(last)
    result = {declared(module) for module in absent}
    return set() if None in result else {str(package) for package in result}


def declared(module: str) -> str | None:
    """The package of pyproject.toml that has ``module`` or is in it, if that package is not there; None otherwise."""
    for package, top in packages().items():
        one_in_other = f"{module}.".startswith(f"{top}.") or f"{top}.".startswith(f"{module}.")
        if one_in_other and not installed(top):
            return package
    return None


@cache
def packages() -> dict[str, str]:
    """Top modules of all packages that the project may use, by the packages' names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = [re.split(r"[^\w-]", line)[0] for line in listed]
    return {name: MODULES.get(name, name.replace("-", "_")) for name in names}


def installed(module: str) -> bool:
    """Whether there is such a module, of a package or a namespace that others share."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def name(path: Path) -> str:
    """As it is called in the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def line(row: dict[str, Any]) -> str:
    """What became of a file."""
    if "why" in row:
        return f"{row['state']:<10}{row['file']}: {row['why']}"
    number = f"{row['tests']} tests, {row['broken']} broken, {row['skipped']} skipped"
    return f"{row['state']:<10}{row['file']}: {number}, {row['seconds']:.0f} s"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("logs", type=Path)
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--marker", default="gpu")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests")
    asked = parser.parse_args(argv)
    asked.logs.mkdir(parents=True, exist_ok=True)
    report = Report(asked.out)
    end, rows = time.perf_counter() + asked.seconds, []
    for path in marked(asked.tests, asked.marker):
        left = end - time.perf_counter()
        if left <= 0:
            rows.append({"file": name(path), "state": "left out", "why": "the time was up"})
        else:
            rows.append(check(path, asked.marker, asked.logs.resolve(), left))
        print(line(rows[-1]), flush=True)
        report.add(tests=rows)
    return 1 if any(row["state"] in ("failed", "stopped") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
