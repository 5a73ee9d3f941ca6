"""What the tests themselves run on: nothing that they start outlives them."""

import subprocess
import sys
import time
from pathlib import Path

import harness
import psutil
import pytest

LAUNCHER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
time.sleep(600)
"""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), subprocess.TimeoutExpired("x", 1)])
def test_finish_leaves_nothing_behind_whatever_ends_it(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C too, and what a launcher has given a session of its own."""
    noted = tmp_path / "child"

    def interrupted(*_: object, **__: object) -> None:
        deadline = time.monotonic() + 60
        while not (noted.exists() and noted.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        raise error

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(type(error)):
        harness.finish([sys.executable, "-c", LAUNCHER, str(noted)])
    child = int(noted.read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
