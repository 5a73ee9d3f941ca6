"""The two commands in a fresh clone: ``make setup`` killed on its way, ``make pretrain`` stopped by Ctrl-C."""

import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# As a person types it: `make test-system` may be running this, and its make would talk to the one inside. But pip
# compiles no bytecode, which of all packages takes long; Python makes that of what it imports.
TYPED = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
TYPED |= {"PIP_COMPILE": "0"}
pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed here, and nothing else."""
    if not (ROOT / ".git").exists():
        pytest.skip("this tree is no git checkout: nothing to clone")
    folder = tmp_path_factory.mktemp("fresh") / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
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
    with (clone / "configs" / "experiment" / "phantom.yaml").open("a") as experiment:
        # Fewer steps, patients and pixels: the rest would be more of the same. One thread: other tests have the other
        # cores.
        experiment.write("epoch_factor: 0.15\nparallel: {threads: 1}\n")
    recipe = clone / "shards" / "recipe" / "phantom_cxr.yaml"
    recipe.write_text(recipe.read_text().replace("patients: 400", "patients: 160").replace("size: 512", "size: 128"))
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
