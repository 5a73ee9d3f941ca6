"""The newest Python of those that pyproject.toml names and this machine has: set-up, shards, steps."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from harness import TINY

ROOT = Path(__file__).parents[2]
TYPED = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
TYPED |= {"ACCELERATOR": "cpu", "PIP_COMPILE": "0"}  # bytecode of all packages takes long
NO_TORCH = (
    "the CUDA build, several gigabytes",
    "pip finds no wheel of torch",
)  # the set-up's words where torch costs too much


def named() -> list[str]:
    """The versions in pyproject.toml, newest first."""
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    versions = [line.rpartition(" ")[2] for line in lines if re.search(r":: 3\.\d+$", line)]
    return sorted(versions, key=lambda version: int(version.partition(".")[2]), reverse=True)


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


# Up to 3 minutes: torch and 150 packages are fetched and unpacked. Where pip knows no CPU build and uv does not reach
# it, less than a minute.
@pytest.mark.system
def test_the_newest_python_sets_up_and_trains(tmp_path: Path) -> None:
    version, python = next(((v, p) for v in named() if (p := installed(v))), ("", Path()))
    if version in ("", f"{sys.version_info.major}.{sys.version_info.minor}"):
        pytest.skip(f"the newest Python here of {', '.join(named())} is the one that runs these tests")
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no git checkout: nothing to clone")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=clone, env=TYPED, capture_output=True, text=True, timeout=600)

    done = run(python, "setup/install.py")
    if done.returncode and any(words in done.stdout + done.stderr for words in NO_TORCH):
        pytest.skip(f"no CPU build of torch for Python {version} can be had here, neither by pip nor by uv")
    assert done.returncode == 0, done.stdout + done.stderr
    ours = clone / ".venv" / "bin" / "python"
    recipe = ["recipe=phantom_cxr", "recipe.patients=16", "recipe.size=128", "out=out/shards"]
    training = [*TINY, "data.shards=out/shards", "run=out/run"]
    for words in (["dira_scale.shard", *recipe], ["dira_scale.pretrain", *training]):
        done = run(ours, "-m", *words)
        assert done.returncode == 0, done.stdout + done.stderr
    status, made_by = (
        json.loads((clone / "out/run" / f"{name}.json").read_text()) for name in ("status", "environment")
    )
    assert status["state"] == "done" and made_by["python"].startswith(f"{version}.")
