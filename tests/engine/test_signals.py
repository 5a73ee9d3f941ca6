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


# From the second Ctrl-C on, the main thread is in one long call of C, as in a convolution of a large network: Python
# runs no handler before it has ended, which is later than the grace that a launcher's forwarded signal has.
BUSY = """
import ctypes, logging, os, signal, sys, threading, time
from dira_scale.engine import signals as room

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
room.REPEAT_SECONDS = 2.0
c, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # no signal interrupts the wait for a mutex

def press_again():
    time.sleep(float(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(3)
    print("the call ends", flush=True)
    c.pthread_mutex_unlock(mutex)

with room.Signals() as signals:
    signals.listen()
    c.pthread_mutex_lock(mutex)
    os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=press_again).start()
    try:
        c.pthread_mutex_lock(mutex)
        print(signals.agreed())
    except KeyboardInterrupt:
        print("ended at once")
"""


@pytest.mark.parametrize(("seconds", "then"), [(0, "SIGINT"), (3, "ended at once")], ids=["forwarded", "pressed again"])
def test_when_a_signal_arrives_counts_and_the_first_is_announced_at_once(seconds: float, then: str) -> None:
    with job([sys.executable, "-c", BUSY, str(seconds)]) as process:
        assert process.wait(120) == 0
        announced = "SIGINT: finishing this step, then a checkpoint; again ends without one"
        assert process.printed().splitlines() == [announced, "the call ends", then]
