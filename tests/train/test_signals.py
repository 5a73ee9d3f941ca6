"""Signals of launchers, in a process of its own."""

import signal
import subprocess
import sys

import pytest

LIFE = """
import os, signal, sys
from dira_scale.train.signals import Signals

try:
    with Signals() as signals:
        if sys.argv[1] == "asked":
            os.kill(os.getpid(), signal.SIGTERM)
            print(signals.agreed())
        if sys.argv[1] == "error":
            raise RuntimeError("another process is gone")
except RuntimeError as error:
    os.kill(os.getpid(), signal.SIGTERM)  # the launcher has seen it, too
    print(error)
else:
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("life", "printed", "code"),
    [("asked", "SIGTERM\n", -signal.SIGTERM), ("error", "another process is gone\n", 0), ("done", "", -signal.SIGTERM)],
)
def test_a_signal_is_a_wish_during_training_and_does_not_silence_an_error(life: str, printed: str, code: int) -> None:
    """After an orderly end, signals do what they did before."""
    done = subprocess.run([sys.executable, "-c", LIFE, life], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.returncode) == (printed, code), done.stderr
