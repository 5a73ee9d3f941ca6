"""The tests that need a GPU, file by file, each in its own process and all within a time limit.

A file whose tests fail only because packages are missing, here or in a process that they start, is skipped and the
packages named; files for which there is no time left are left out.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu import bounded, items
from benchmarks.gpu.items import absent
from benchmarks.gpu.report import Job, figure

ROOT = Path(__file__).parents[2]
NOTHING = 5  # pytest's exit code where a file has no such test
# What pytest says that was raised, here or in a process whose words are the reason.
ABSENT = re.compile(r"^E\s.*\bModuleNotFoundError: No module named '([\w.]+)'", re.MULTILINE)
HANDLED = "During handling of the above exception, another exception occurred"


def check(path: Path, out: Path, left: Callable[[], float]) -> dict[str, Any]:
    """Run one file's tests in the seconds that are ``left``; how many passed, and what became of the others."""
    xml, log = out / f"{path.stem}.xml", out / f"{path.stem}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={xml}"]
    with log.open("w") as file:
        code = bounded.run([*command, str(path)], left(), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    if code is None:
        return {"failed": "stopped, its time was up"}
    if code == NOTHING:
        return {"left_out": "no test of 'gpu'"}
    if not xml.exists():  # pytest itself failed
        return {"failed": f"exit code {code}, see {log.name}"}
    (suite,) = ElementTree.parse(xml).getroot().iter("testsuite")
    tests, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    broken = ["".join(case.itertext()) for kind in ("failure", "error") for case in suite.iter(kind)]
    lacking = {lacks(text) for text in broken}
    if broken and None not in lacking:
        return {"left_out": f"{', '.join(sorted(map(str, lacking)))} is missing ({len(broken)} of {tests} tests)"}
    passed, note = tests - skipped - len(broken), f"{skipped} skipped, {len(broken)} broken"
    return {"figures": {"passed": figure(passed, "tests", tests, note, code == 0)}}


def lacks(text: str) -> str | None:
    """The package for want of which a test broke that pytest tells of in ``text``; None if it broke for another reason,
    as after an absence that was handled."""
    found = ABSENT.findall(text.rpartition(HANDLED)[2])
    return absent(found[-1]) if found else None


def run(job: Job) -> bool:
    """Every file with tests marked ``gpu``, of those asked for, that there is time for; whether none failed."""
    end, files = time.perf_counter() + job.seconds, list[Path]()
    for path in [ROOT / path for path in job.tests or ("tests",)]:
        files += [path] if path.is_file() else sorted(path.rglob("test_*.py"))
    files = [path for path in files if "mark.gpu" in path.read_text()]
    return items.run(
        job,
        {
            os.path.relpath(path, ROOT): partial(check, path, job.logs, lambda: end - time.perf_counter())
            for path in files
        },
        2.0,
    )
