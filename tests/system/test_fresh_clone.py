"""``make setup`` in a fresh clone, killed on its way and typed again."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.system
@pytest.mark.timeout(900)
def test_a_killed_set_up_goes_on(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no git checkout: nothing to clone")
    subprocess.run(["git", "clone", "--quiet", ROOT, tmp_path / "clone"], check=True)
    clone = tmp_path / "clone"
    packages = clone / ".venv" / "lib"

    first = subprocess.Popen(["make", "setup"], cwd=clone, start_new_session=True, stdout=subprocess.DEVNULL)
    while first.poll() is None and not list(packages.glob("python*/site-packages/torch/__init__.py")):
        time.sleep(0.1)
    os.killpg(first.pid, signal.SIGKILL)  # torch is half unpacked
    first.wait()
    assert not (clone / ".venv" / "install.json").exists()

    subprocess.run(["make", "setup"], cwd=clone, check=True)
    python = clone / ".venv" / "bin" / "python"
    check = "import accelerate, segmentation_models_pytorch, timm, torch; assert torch.ones(2).sum() == 2"
    subprocess.run([python, "-c", check], cwd=clone, check=True)
    launch = subprocess.run(
        [python, "-m", "dira_scale.doctor", "show=launch"], cwd=clone, check=True, capture_output=True
    )
    assert launch.stdout.startswith(b"accelerate launch")

    log = clone / ".venv" / "install.log"
    before = log.stat().st_mtime_ns
    again = subprocess.run(["make", "setup"], cwd=clone, check=True, capture_output=True)
    assert again.stdout == b""
    assert log.stat().st_mtime_ns == before
