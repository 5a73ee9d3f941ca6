"""The tests that need a GPU, file by file, each in its own process and all within a time limit.

A file whose tests fail only because packages are missing, here or in a process that they start, is skipped and the
packages named; files for which there is no time left are left out.
"""

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu import bounded
from benchmarks.gpu.report import Job

ROOT = Path(__file__).parents[2]
OURS = ("dira_scale", "benchmarks", "harness", "needs")  # to lack one of these is a failure
NOTHING = 5  # pytest's exit code where a file has no such test
# What pytest says that was raised, here or in a process whose words are the reason.
ABSENT = re.compile(r"^E\s.*\bModuleNotFoundError: No module named '([\w.]+)'", re.MULTILINE)
HANDLED = "During handling of the above exception, another exception occurred"


def check(path: Path, out: Path, seconds: float) -> dict[str, Any]:
    """Run one file's tests; what became of them."""
    xml, log = out / f"{path.stem}.xml", out / f"{path.stem}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={xml}"]
    row: dict[str, Any] = {"file": os.path.relpath(path, ROOT)}
    began = time.perf_counter()
    with log.open("w") as file:
        code = bounded.run([*command, str(path)], seconds, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if code is None:
        return row | {"state": "stopped", "why": f"not done after {seconds:.0f} s"}
    row |= {"seconds": time.perf_counter() - began, "log": log.name}
    if code == NOTHING:
        return row | {"state": "left out", "why": "no test of 'gpu'"}
    if not xml.exists():  # pytest itself failed
        return row | {"state": "failed", "why": f"exit code {code}, see {log.name}"}
    (suite,) = ElementTree.parse(xml).getroot().iter("testsuite")
    row |= {"tests": int(suite.get("tests", 0)), "skipped": int(suite.get("skipped", 0))}
    broken = ["".join(case.itertext()) for kind in ("failure", "error") for case in suite.iter(kind)]
    row |= {"broken": len(broken)}
    lacking = {lacks(text) for text in broken}
    if broken and None not in lacking:
        why = f"{', '.join(sorted(map(str, lacking)))} is missing ({len(broken)} of {row['tests']} tests)"
        return row | {"state": "skipped", "why": why}
    return row | {"state": "passed" if code == 0 else "failed"}


def lacks(text: str) -> str | None:
    """The package for want of which a test broke that pytest tells of in ``text``; None if it broke for another reason,
    as after an absence that was handled."""
    found = ABSENT.findall(text.rpartition(HANDLED)[2])
    return absent(found[-1]) if found else None


def absent(module: str) -> str | None:
    """The package of others that has ``module``, if that is not there; None otherwise."""
    package = module.partition(".")[0]
    shared = package == "nvidia"  # a namespace, which torch's libraries have too
    return module if module and package not in OURS and (shared or importlib.util.find_spec(package) is None) else None


def line(row: dict[str, Any]) -> str:
    """What became of a file."""
    if "why" in row:
        return f"{row['state']:<10}{row['file']}: {row['why']}"
    number = f"{row['tests']} tests, {row['broken']} broken, {row['skipped']} skipped"
    return f"{row['state']:<10}{row['file']}: {number}, {row['seconds']:.0f} s"


def run(job: Job, tests: Path = ROOT / "tests") -> bool:
    """Every file with tests marked ``gpu``; whether none failed."""
    end, rows = time.perf_counter() + job.seconds, []
    for path in sorted(path for path in tests.rglob("test_*.py") if "mark.gpu" in path.read_text()):
        left = end - time.perf_counter()
        if left <= 0:
            rows.append({"file": os.path.relpath(path, ROOT), "state": "left out", "why": "the time was up"})
        else:
            rows.append(check(path, job.logs, left))
        print(line(rows[-1]), flush=True)
        job.report.add(tests=rows)
    return not any(row["state"] in ("failed", "stopped") for row in rows)
