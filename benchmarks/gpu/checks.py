"""The tests that need a GPU, file by file, each in a process of its own and all in bounded time.

    python -m benchmarks.gpu.checks OUT [--seconds 440] [--marker gpu]

A file whose tests break for want of a package, here or in a process that they start, is skipped and the package named;
files for which the time no longer suffices are left out. OUT/tests.json has what became of each; `bench gpu` calls it.
"""

import argparse
import importlib.util
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu import bounded
from dira_scale.files import write_json

ROOT = Path(__file__).parents[2]
NOTHING = 5  # pytest's exit code where a file has no such test
ABSENT = re.compile(r"ModuleNotFoundError: No module named '(\w+)")


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
    lacking = {lacks(text) for text in broken}
    if broken and None not in lacking:
        packages = ", ".join(sorted(map(str, lacking)))
        return row | {"state": "skipped", "why": f"{packages} is missing ({len(broken)} of {row['tests']} tests)"}
    return row | {"state": "passed" if code == 0 else "failed"}


def lacks(text: str) -> str | None:
    """The package for want of which a test broke that printed ``text``; None where something else is wrong."""
    absent = ABSENT.search(text)
    return absent[1] if absent and importlib.util.find_spec(absent[1]) is None else None


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
    parser.add_argument("--seconds", type=float, default=440)
    parser.add_argument("--marker", default="gpu")
    parser.add_argument("--tests", type=Path, default=ROOT / "tests")
    asked = parser.parse_args(argv)
    asked.out.mkdir(parents=True, exist_ok=True)
    end, rows = time.perf_counter() + asked.seconds, []
    for path in marked(asked.tests, asked.marker):
        left = end - time.perf_counter()
        if left <= 0:
            rows.append({"file": name(path), "state": "left out", "why": "the time was up"})
        else:
            rows.append(check(path, asked.marker, asked.out.resolve(), left))
        print(line(rows[-1]), flush=True)
        write_json(asked.out / "tests.json", rows)
    return 1 if any(row["state"] in ("failed", "stopped") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
