"""Signals of launchers, in a process of its own."""

import signal
import sys

import pytest
from harness import job

LIFE = """
import os, signal, sys
from dira_scale.engine.signals import STOP_SIGNALS, Signals

before = [signal.getsignal(number) for number in STOP_SIGNALS]
try:
    with Signals() as signals:
        assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
        signals.listen()
        if sys.argv[1] == "asked":
            os.kill(os.getpid(), signal.SIGTERM)
            print(signals.agreed())
        if sys.argv[1] == "error":
            try:
                raise RuntimeError("another process is gone")
            except RuntimeError as error:
                os.kill(os.getpid(), signal.SIGTERM)  # the launcher has seen it, too
                print(error)
                raise
except RuntimeError:
    print("and the error goes on")
assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("life", "printed"),
    [("asked", "SIGTERM\n"), ("error", "another process is gone\nand the error goes on\n"), ("done", "")],
)
def test_a_signal_is_a_wish_during_training_and_does_not_silence_an_error(life: str, printed: str) -> None:
    """After the end, whatever it was, signals do what they did before."""
    with job([sys.executable, "-c", LIFE, life]) as process:
        assert (process.wait(120), process.printed()) == (-signal.SIGTERM, printed)
