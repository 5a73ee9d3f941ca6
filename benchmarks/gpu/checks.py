"""The tests that need a GPU, file by file, each in a process of its own and all in bounded time.

    python -m benchmarks.gpu.checks OUT [--seconds 440] [--marker gpu]

A file that imports a package which this machine lacks is named with it and left out, and so are files for which the
time no longer suffices; OUT/tests.json has what became of each. `bench gpu` calls this.
"""

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from dira_scale.files import write_json

ROOT = Path(__file__).parents[2]
COLLECTION = 2  # pytest's exit code where a file could not be read
NOTHING = 5  # and where it had no such test


def marked(tests: Path, marker: str) -> list[Path]:
    """The files with tests of ``marker``."""
    return sorted(path for path in tests.rglob("test_*.py") if f"mark.{marker}" in path.read_text())


def check(path: Path, marker: str, out: Path, seconds: float) -> dict[str, Any]:
    """Run one file's tests of ``marker``; what became of them."""
    xml, log = out / f"{path.stem}.xml", out / f"{path.stem}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-m", marker, "-p", "no:cacheprovider", f"--junitxml={xml}"]
    row: dict[str, Any] = {"file": name(path)}
    began = time.perf_counter()
    try:
        with log.open("w") as file:
            code = subprocess.run(
                [*command, str(path)], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=seconds
            ).returncode
    except subprocess.TimeoutExpired:
        return row | {"state": "stopped", "why": f"not done after {seconds:.0f} s"}
    row |= {"seconds": time.perf_counter() - began, "log": log.name}
    absent = re.search(r"ModuleNotFoundError: No module named '(\w+)", log.read_text())
    if code == COLLECTION and absent:
        return row | {"state": "left out", "why": f"{absent[1]} is not there"}
    if code == NOTHING:
        return row | {"state": "left out", "why": f"no test of '{marker}'"}
    return row | counts(xml) | {"state": "passed" if code == 0 else "failed"}


def name(path: Path) -> str:
    """As it is called in the checkout."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name


def counts(xml: Path) -> dict[str, int]:
    """Tests, failures and skips of a report of pytest's; none where it wrote none."""
    if not xml.exists():
        return {}
    (suite,) = ElementTree.parse(xml).getroot().iter("testsuite")
    number = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    return {"tests": number["tests"], "broken": number["failures"] + number["errors"], "skipped": number["skipped"]}


def line(row: dict[str, Any]) -> str:
    """What became of a file."""
    if "why" in row:
        return f"{row['state']:<10}{row['file']}: {row['why']}"
    number = f"{row.get('tests', 0)} tests, {row.get('broken', 0)} broken, {row.get('skipped', 0)} skipped"
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
