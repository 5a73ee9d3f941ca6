"""The tiers of the tests: what begins first, what ``make test`` leaves to ``make test-rest``, and what an interrupted
``make torture`` has still to do."""

import hashlib
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

MAKE_TEST = "not system and not torture and not gpu"  # its -m
# They use one SLURM in turns: in processes of their own they would wait for each other.
SLURM = tuple(f"tests/system/test_{name}.py" for name in ("sweeps", "jobs", "sweep_status"))
# The longest first: a worker that begins one last would be the only one that works.
FIRST = (*SLURM, "tests/test_setup_gpu.py", "tests/system/test_fresh_clone.py", "tests/system/test_strategies.py")
NOTES, PASSED = "dira_scale/make-test", "dira_scale/passed"  # in pytest's cache
LACKING = "lacking"  # the mark of a test's report
Report = pytest.TestReport


class Tier:
    """A plug-in of one call of pytest."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """``FIRST``, then other whole runs."""

        def rank(item: pytest.Item) -> tuple[int, bool, bool]:
            whole = item.get_closest_marker("system") is not None
            place = next((i for i, file in enumerate(FIRST) if whole and item.nodeid.startswith(file)), len(FIRST))
            return place, "system" not in item.path.parts, not whole

        items.sort(key=rank)

    @pytest.hookimpl(optionalhook=True)  # pytest-xdist's
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """A file's tests by one worker, as ``--dist loadfile`` does, and all of SLURM's by one, too."""
        if config.getvalue("dist") != "loadfile":
            return None
        from xdist.scheduler import LoadFileScheduling

        class Files(LoadFileScheduling):  # type: ignore[misc]
            def _split_scope(self, nodeid: str) -> str:
                return "slurm" if nodeid.startswith(SLURM) else str(super()._split_scope(nodeid))

        return Files(config, log)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, Report, Report]:
        """Marks the report of a test that ``needs.skip_without`` skips: the mark travels from xdist's workers."""
        report = yield
        if call.excinfo and hasattr(call.excinfo.value, "lacking"):
            report.user_properties.append((LACKING, call.excinfo.value.lacking))
        return report


class Ran:
    """Notes, in pytest's cache, the names of the tests that ran with all that they need."""

    def __init__(self, config: pytest.Config) -> None:
        self.cache, self.ran, self.lacking = config.cache, set[str](), set[str]()
        self.cache.set(NOTES, None)  # until all have run

    def pytest_runtest_logreport(self, report: Report) -> None:
        self.ran.add(report.nodeid)
        if any(name == LACKING for name, _ in report.user_properties):
            self.lacking.add(report.nodeid)

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            self.cache.set(NOTES, sorted(self.ran - self.lacking))


class Rest:
    """``--rest``: all but what the last ``make test`` ran, so that no test is lost between the two and none runs twice.

    All, not only what was lacking: with what has been installed since, there may be tests that there were not.
    """

    def __init__(self, config: pytest.Config) -> None:
        if (notes := config.cache.get(NOTES, None)) is None:
            raise pytest.UsageError("--rest: there is no `make test` that came to its end: run it first")
        self.ran = set(notes)

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self.ran])
        items[:] = [item for item in items if item.nodeid not in self.ran]


class Passed:
    """``--resume``: all but what has passed, for as long as no file changes; forgotten once all have passed."""

    def __init__(self, config: pytest.Config) -> None:
        self.cache, self.code, self.failed = config.cache, _code(config.rootpath), False
        self.before = (config.cache.get(PASSED, None) or {}).get(self.code, [])
        self.passed = [*self.before]

    @pytest.hookimpl(trylast=True)  # after -m and -k
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in self.before])
        items[:] = [item for item in items if item.nodeid not in self.before]

    def pytest_report_collectionfinish(self) -> str:
        return f"left out {len(self.before)} that passed before" if self.before else ""

    def pytest_runtest_logreport(self, report: Report) -> None:
        self.failed = not report.passed or (self.failed and report.when != "setup")
        if report.when == "teardown" and not self.failed:
            self.passed.append(report.nodeid)
            self.cache.set(PASSED, {self.code: self.passed})

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            self.cache.set(PASSED, None)


def _code(root: Path) -> str:
    """A name for the files of the checkout as they are now."""
    found = b""
    for command in (["rev-parse", "HEAD"], ["diff", "HEAD"], ["status", "--porcelain"]):
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True)
        if done.returncode:
            raise pytest.UsageError(f"--resume: {root} must be a git checkout, whose changes tell what to run again")
        found += done.stdout
    return hashlib.sha256(found).hexdigest()[:16]
