"""What the tests themselves run on: nothing that they start outlives them or is deaf to signals; the names that they
hand to other processes exist."""

import os
import re
import shutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import harness
import psutil
import pytest
from forked import Forked, Started

from dira_scale.errors import UserError

LAUNCHER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("error", "kind"), [(KeyboardInterrupt(), Started), (subprocess.TimeoutExpired("x", 1), Forked)]
)
def test_finish_leaves_nothing_behind_whatever_ends_it(
    error: BaseException, kind: type[Started | Forked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C too, and what a launcher has given a session of its own."""
    noted, raised = tmp_path / "child", []

    wait = kind.wait

    def interrupted(process: Any, seconds: float) -> int:
        if raised:
            return wait(process, seconds)
        deadline = time.monotonic() + 60
        while not (noted.exists() and noted.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raised.append(error)
        raise error

    monkeypatch.setattr(kind, "wait", interrupted)
    with pytest.raises(type(error)):
        harness.finish([sys.executable, "-c", LAUNCHER, str(noted)], fresh=kind is Started)
    child = int(noted.read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_names_that_tests_import_in_text_exist() -> None:
    """Code that is handed to other processes is a string, into which no linter looks."""
    found = {
        (module, name.split(" as ")[0].strip())
        for file in Path(__file__).parent.rglob("*.py")
        if "toy" not in file.parts  # commands of another checkout
        for module, names in re.findall(r"from (dira_scale[\w.]*) import ([\w, ]+)", file.read_text())
        for name in names.split(",")
    }
    assert sorted(names for names in found if not exists(*names)) == []


def exists(module: str, name: str) -> bool:
    """Whether ``from module import name`` works, or lacks no more than a package."""
    try:
        return hasattr(import_module(module), name) or bool(import_module(f"{module}.{name}"))
    except ImportError:
        return False
    except UserError:
        return True


def pytest_in(folder: Path, *flags: str, before: str = "") -> str:
    """What pytest prints of the tests in ``folder``, with the conftest of these and without plugins, which are slow to
    start; ``before``: bash's command before it."""
    for name in ("conftest.py", "tiers.py", "needs.py"):
        shutil.copy(Path(__file__).with_name(name), folder)
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "DIRA_SCALE_REQUIRE": ""}
    words = ["bash", "-c", f'{before}\nexec "$@"', "bash", sys.executable, "-m", "pytest", "-v", *flags]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


HEARD = """
import signal, subprocess, sys
names = {signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
def test_children_hear():
    said = subprocess.run(["grep", "SigIgn", "/proc/self/status"], capture_output=True, text=True).stdout
    ignored = int(said.split()[1], 16)
    assert not {name for name in names if ignored >> (name - 1) & 1}
def test_itself_goes_on():
    for name in names:
        signal.raise_signal(name)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc says which signals a process ignores")
def test_what_the_tests_start_hears_signals_that_their_own_process_ignores(tmp_path: Path) -> None:
    """As it does under ``nohup``, or in the background of a shell; it goes on ignoring them itself."""
    (tmp_path / "test_heard.py").write_text(HEARD)
    printed = pytest_in(tmp_path, before="trap '' INT HUP TERM QUIT USR1 USR2")
    assert "2 passed" in printed, printed


HOURS = """
import pathlib
def test_first(): pass
def test_broken(): assert pathlib.Path("mended").exists()
def test_interrupted():
    if not pathlib.Path("again").exists():
        raise KeyboardInterrupt
"""


@pytest.mark.system
def test_hours_of_tests_go_on_where_they_stopped(tmp_path: Path) -> None:
    """Not those that failed, nor where a file has changed; once all have passed, all run again."""

    def git(*command: str) -> None:
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)

    def resume() -> str:
        return pytest_in(tmp_path, "--resume")

    for name, text in (("test_hours.py", HOURS), (".gitignore", ".pytest_cache\n__pycache__\nagain\nmended\n")):
        (tmp_path / name).write_text(text)
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)  # before the commit: it is a part of the code
    git("init", "-q")
    git("add", ".")
    git("-c", "user.name=x", "-c", "user.email=x", "commit", "-qm", "x")
    first = resume()
    assert "test_first PASSED" in first and "test_broken FAILED" in first and "test_interrupted" in first
    (tmp_path / "again").touch()
    second = resume()
    assert "left out 1 that passed before" in second and "test_first" not in second
    assert "test_broken FAILED" in second and "test_interrupted PASSED" in second
    (tmp_path / "mended").touch()
    third = resume()
    assert "test_broken PASSED" in third and "test_interrupted" not in third
    assert resume().count("PASSED") == 3
    (tmp_path / "mended").unlink()
    assert "test_first PASSED" in resume()
    (tmp_path / "test_hours.py").write_text(HOURS + "\n")
    assert "test_first PASSED" in resume()


LACKING = """
import os, pytest
from needs import skip_without
def need(): skip_without("ffcv", "" if "INSTALLED" in os.environ else "no ffcv")
@pytest.fixture(scope="module")
def ffcv(): need()
def test_runs(): pass
def test_fails(): assert "INSTALLED" in os.environ
def test_another_skip(): pytest.skip("no GPU")
def test_itself(): need()
@pytest.mark.parametrize("n", [1, 2])
def test_fixture(ffcv, n): pass
@pytest.mark.system
def test_system(): pass
@pytest.mark.torture
def test_torture(): pass
if "INSTALLED" in os.environ:
    def test_new(): pass
"""
FIRST, REST = ("not system and not torture and not gpu",), ("not torture and not gpu", "--rest")


@pytest.mark.system
@pytest.mark.parametrize("workers", [(), ("-p", "xdist.plugin", "-n", "2")], ids=["one", "xdist"])
def test_make_test_and_the_rest_run_every_test_once(
    workers: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was lacking, in the test or in its fixture, and what was not there at all; other skips are as they were."""
    (tmp_path / "test_lacking.py").write_text(LACKING)
    marks = "markers =\n system: x\n torture: x\n gpu: x\n"
    (tmp_path / "pytest.ini").write_text(f"[pytest]\naddopts = --strict-markers\n{marks}")

    def names(*flags: str) -> dict[str, str]:
        printed = pytest_in(tmp_path, *workers, "-m", *flags)
        outcomes = re.findall(r"^\S+::(\S+) ([A-Z]+)", printed, re.MULTILINE)  # without xdist
        outcomes += [
            words[::-1] for words in re.findall(r"^\[gw\d\] \[ *\d+%\] ([A-Z]+) \S+::(\S+)", printed, re.MULTILINE)
        ]
        return dict(outcomes) or {"error": printed}

    assert "run it first" in names(*REST)["error"]
    first = names(*FIRST)
    skipped = {"test_another_skip", "test_itself", "test_fixture[1]", "test_fixture[2]"}
    assert first == {"test_runs": "PASSED", "test_fails": "FAILED"} | dict.fromkeys(skipped, "SKIPPED")
    monkeypatch.setenv("INSTALLED", "1")
    rest = names(*REST)
    assert rest == dict.fromkeys(skipped - {"test_another_skip"} | {"test_system", "test_new"}, "PASSED")
    (tmp_path / "test_lacking.py").write_text(LACKING.replace("[1, 2]", "[1, 3]"))
    assert "test_fixture[2]" in names(*REST)["error"]
