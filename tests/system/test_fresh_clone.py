"""The two commands in a fresh clone: ``make setup`` killed on its way, ``make pretrain`` stopped by Ctrl-C; and another
Python."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from harness import SECONDS, SMALL, TINY

ROOT = Path(__file__).parents[2]
# As a person types it: `make test-system` may be running this, and its make would talk to the one inside. But pip
# compiles no bytecode, which of all packages takes long; Python makes that of what it imports.
OURS = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHONPATH")
TYPED = {name: value for name, value in os.environ.items() if name not in OURS}
TYPED |= {"PIP_COMPILE": "0"}
SMALLER = {
    "configs/experiment/phantom.yaml": {
        "data:\n": "epoch_factor: 0.4\nparallel: {threads: 1}\nmodel: {encoder: test_resnet}\n"
        "data:\n  size: 32\n  batch: 8\n"
    },
    "shards/recipe/phantom_cxr.yaml": {"patients: 400": "patients: 40", "size: 512": "size: 128"},
}
pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cloned(tmp_path_factory.mktemp("fresh") / "clone")


def cloned(folder: Path) -> Path:
    """What is committed here, and nothing else."""
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no git checkout: nothing to clone")
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True, timeout=SECONDS)
    return folder


def type_on_a_terminal(command: list[str], folder: Path, stop_at: bytes) -> tuple[int, bytes]:
    """Run ``command`` on a terminal, press Ctrl-C once ``stop_at`` has been shown; exit status and all output."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, TYPED)
    shown, stopped = b"", False
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not stopped and stop_at in shown:
            os.write(terminal, b"\x03")
            stopped = True
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def test_a_killed_set_up_goes_on(clone: Path) -> None:
    packages = clone / ".venv" / "lib"
    first = subprocess.Popen(["make", "setup"], cwd=clone, env=TYPED, start_new_session=True, stdout=subprocess.DEVNULL)
    while first.poll() is None and not list(packages.glob("python*/site-packages/torch/__init__.py")):
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)  # torch is half unpacked
    first.wait()
    assert not (clone / ".venv" / "install.json").exists()

    subprocess.run(["make", "setup"], cwd=clone, env=TYPED, check=True)
    python = clone / ".venv" / "bin" / "python"
    check = "import accelerate, segmentation_models_pytorch, timm, torch; assert torch.ones(2).sum() == 2"
    subprocess.run([python, "-c", check], cwd=clone, check=True)

    log = clone / ".venv" / "install.log"
    before = log.stat().st_mtime_ns
    again = subprocess.run(["make", "setup"], cwd=clone, env=TYPED, check=True, capture_output=True)
    assert again.stdout == b""
    assert log.stat().st_mtime_ns == before


def test_make_pretrain_goes_on_after_ctrl_c(clone: Path) -> None:
    run = clone / "out" / "runs" / "phantom"
    # A smaller network, fewer patients and pixels: the rest would be more of the same. One thread: other tests have the
    # other cores.
    for name, changes in SMALLER.items():
        file = clone / name
        text = file.read_text()
        for before, after in changes.items():
            assert text.count(before) == 1
            text = text.replace(before, after)
        file.write_text(text)
    code, shown = type_on_a_terminal(["make", "pretrain"], clone, stop_at=b"loss ")  # beside the bar, from step 10 on
    text = shown.decode()
    assert code != 0
    assert "interrupted; run make pretrain again to resume" in text
    assert "Traceback" not in text
    stopped = (run / "checkpoints" / "LATEST").read_text()

    done = subprocess.run(["make", "pretrain"], cwd=clone, env=TYPED, check=True, capture_output=True, text=True)
    assert "is complete" in done.stdout  # the shards are not made again
    assert f"The report:   {run}/report.html" in done.stdout
    assert re.search(r"Finished in \d+ min \d\d s after the set-up", done.stdout)
    assert (run / "report.html").is_file()
    assert (run / "export" / "encoder.safetensors").is_file()
    assert int((run / "checkpoints" / "LATEST").read_text()) > int(stopped)


def named() -> list[str]:
    """The versions of Python in pyproject.toml."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    return [line.rpartition(" ")[2] for line in lines if re.search(r":: 3\.\d+$", line)]


def installed(version: str) -> Path | None:
    """A Python of this version with ``venv``: in PATH, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    in_path = shutil.which(f"python{version}")
    for python in ([Path(in_path)] if in_path else []) + sorted(pyenv.glob(f"{version}.*/bin/python")):
        code = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
        if done.stdout.strip() == version:  # pyenv's shim fails where the version is not chosen
            return python
    return None


@pytest.mark.torture
@pytest.mark.parametrize("version", named())
def test_another_python_sets_up_and_trains(version: str, tmp_path: Path) -> None:
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip("this Python runs these tests")
    if (python := installed(version)) is None:
        pytest.skip(f"no Python {version} with venv is in PATH or among pyenv's")
    other = cloned(tmp_path / "clone")
    recipe = ["recipe=phantom_cxr", "recipe.patients=16", "recipe.size=128", "out=shards"]
    for words in (
        ["make", "setup", f"PYTHON={python}"],
        [".venv/bin/dira_scale", "shard", *recipe],
        [".venv/bin/dira_scale", "pretrain", *TINY, SMALL, "data.shards=shards", "run=run"],
    ):
        environment = TYPED | {"ACCELERATOR": "cpu"}
        done = subprocess.run(words, cwd=other, env=environment, capture_output=True, text=True, timeout=SECONDS)
        if any(said in done.stdout + done.stderr for said in ("several gigabytes", "pip finds no wheel of torch")):
            pytest.skip(f"no CPU build of torch for Python {version} can be had here")
        assert done.returncode == 0, done.stdout + done.stderr
    assert f'"python": "{version}.' in (other / "run" / "environment.json").read_text()
