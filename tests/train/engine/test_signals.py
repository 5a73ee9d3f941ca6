"""Signals of launchers, in a process of its own."""

import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import job

from dira_scale.train.distributed import collectives
from dira_scale.train.engine import signals

LIFE = """
import os, signal, sys
from dira_scale.train.engine.signals import STOP_SIGNALS, Signals

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
from dira_scale.train.engine import signals as room

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
room.REPEAT_SECONDS = 1.0
c, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # no signal interrupts the wait for a mutex

def press_again():
    time.sleep(float(sys.argv[1]))
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1.5)
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


@pytest.mark.parametrize(("seconds", "then"), [("0", "SIGINT"), ("1.5", "ended at once")])
def test_when_a_signal_arrives_counts_and_the_first_is_announced_at_once(seconds: str, then: str) -> None:
    with job([sys.executable, "-c", BUSY, seconds]) as process:
        assert process.wait(120) == 0
        announced = "SIGINT: finishing this step, then a checkpoint; again ends without one"
        assert process.printed().splitlines() == [announced, "the call ends", then]


# Three processes: torch's own group carries what the test itself says, Signals has another.
THREE = """
import logging, os, signal, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from dira_scale.train.distributed.rendezvous import is_connection_lost
from dira_scale.train.engine import signals as module
from dira_scale.train.engine.signals import Signals

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
life, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
dist.init_process_group("gloo", f"file://{folder}/meet", timeout=timedelta(seconds=120), rank=rank, world_size=3)
if life == "rarely":
    module.RANKS_A_STEP = 2  # three ranks ask every second step
with Signals() as signals:
    signals.listen()
    for step in range(1, 7):
        if life == "late" and rank == 2 and step < 6:
            while not all((folder / f"{other} has ended step {step}").exists() for other in (0, 1)):
                time.sleep(0.001)
        if (life, rank, step) in (("one", 1, 3), ("last", 1, 6), ("rarely", 1, 1)):
            os.kill(os.getpid(), signal.SIGUSR2)
        if life == "all" and step == 3:
            os.kill(os.getpid(), (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)[rank])
        if (life, rank, step) == ("dies", 1, 3):
            os._exit(9)
        assert step > 2 or not signals.lost()
        while (life, step) == ("dies", 4) and not signals.lost():
            time.sleep(0.001)
        try:
            if name := signals.agreed(wait=step == 6):
                break
        except RuntimeError as error:
            name = f"lost: {is_connection_lost(error)}"
            break
        (folder / f"{rank} has ended step {step}").touch()
    print(f"rank {rank}: {name or 'no signal'} at step {step}", flush=True)
    if life != "dies":
        dist.barrier()
    os._exit(0)  # as a run does
"""


def lines_of_three(life: str, folder: Path, codes: tuple[int, ...] = (0, 0, 0)) -> list[str]:
    """What three processes print in this life, and their exit codes are ``codes``."""
    with ExitStack() as ending:
        commands = [[sys.executable, "-c", THREE, life, str(rank), str(folder)] for rank in range(3)]
        processes = [ending.enter_context(job(command, OMP_NUM_THREADS="1")) for command in commands]
        assert tuple(process.wait(60) for process in processes) == codes, [p.printed() for p in processes]
        return [line for process in processes for line in process.printed().splitlines()]


@pytest.mark.parametrize(
    ("life", "name", "step"),
    [("one", "SIGUSR2", 4), ("all", "SIGTERM", 4), ("last", "SIGUSR2", 6), ("rarely", "SIGUSR2", 4)],
)
def test_all_processes_stop_at_the_step_after_a_signal_or_at_the_last(
    tmp_path: Path, life: str, name: str, step: int
) -> None:
    """All agree on a signal to one, and on several signals; one that arrives at the last step is acted on there."""
    lines = lines_of_three(life, tmp_path)
    assert [line for line in lines if line.startswith("rank")] == [f"rank {r}: {name} at step {step}" for r in range(3)]
    output = [line for line in lines if not line.startswith("rank")]
    assert len(output) == (3 if life == "all" else 1)
    more = 3 if life == "rarely" else "one"
    assert all(f"finishing this step and at most {more} more, then a checkpoint" in line for line in output)


def test_no_process_waits_for_one_that_is_still_in_its_step(tmp_path: Path) -> None:
    """In each step but the last, which waits, one asks only when it sees that the others have asked and gone on."""
    lines = lines_of_three("late", tmp_path)
    assert lines == [f"rank {r}: no signal at step 6" for r in range(3)]


def test_a_process_that_dies_is_noticed_within_a_step(tmp_path: Path) -> None:
    for line in lines_of_three("dies", tmp_path, codes=(0, 9, 0)):
        assert line.partition(": ")[2] in ("lost: True at step 3", "lost: True at step 4"), line


@pytest.mark.parametrize(("backend", "made"), [("nccl", "control"), ("gloo", "signals")])
def test_the_question_shares_a_group_with_control_messages_not_gradients(
    backend: str, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (collectives, signals):
        monkeypatch.setattr(module, "world", lambda: 2)
        monkeypatch.setattr(module, "new_group", lambda name, backend: name)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: backend)
    monkeypatch.setattr(signals, "control_group", collectives.control_group.__wrapped__)
    with signals.Signals() as listening:
        listening.listen()
        assert listening._group == made
