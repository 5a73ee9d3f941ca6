"""Waiting OpenMP threads yield while another program computes, and only then."""

import os
import subprocess
import sys
import time

import psutil
import pytest
import torch

from dira_scale.distributed.spinning import SleepingTeam, find_libgomp, is_crowded

WAIT = 120  # seconds; a child that imports torch on a busy machine
assert torch.get_num_threads()  # torch's OpenMP is loaded
LIBRARY = find_libgomp()

needs_libgomp = pytest.mark.skipif(LIBRARY is None, reason="torch's OpenMP is not GNU's, or this is not Linux")


@pytest.mark.parametrize(
    ("others", "threads", "cores", "before", "crowded"),
    [
        (0.0, 2, 2, False, False),  # alone
        (0.2, 2, 2, False, False),  # a terminal, an editor
        (1.0, 2, 2, False, True),  # another program on one of two cores
        (1.0, 1, 2, False, False),  # one thread fits beside it
        (6.0, 2, 8, False, False),  # the other ranks of an eight-core machine
        (7.0, 2, 8, False, True),
        (0.2, 2, 2, True, True),  # it is only just gone: stay
        (0.05, 2, 2, True, False),
    ],
)
def test_crowded_is_more_threads_than_cores_are_left(others, threads, cores, before, crowded):
    assert is_crowded(others, threads, cores, before) is crowded


@needs_libgomp
def test_team_sleeps_and_ends():
    process, team = psutil.Process(), SleepingTeam(LIBRARY)
    before = process.num_threads()
    team.gather()
    assert team.gathered and process.num_threads() > before
    team.dismiss()
    assert not team.gathered
    deadline = time.monotonic() + WAIT
    while process.num_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)  # they end after their leader
    assert process.num_threads() <= before


# Regions of microseconds, with pauses: nearly all of the CPU time is waiting.
WAITING = """
import time, torch
from dira_scale.distributed.spinning import SleepingTeam, find_libgomp
torch.set_num_threads(2)
x, team = torch.randn(200_000), SleepingTeam(find_libgomp())

def waiting():
    x.sin()
    began = time.process_time()
    for _ in range(30):
        x.sin()
        time.sleep(0.02)
    return time.process_time() - began

spinning = waiting()
team.gather()
time.sleep(0.2)
yielding = waiting()
team.dismiss()
print(spinning, yielding, waiting())
"""

BESIDE = """
import os, subprocess, sys, time, torch
from dira_scale.distributed import spinning

class Seen(spinning.SleepingTeam):
    def gather(self):
        super().gather()
        print("gathered", flush=True)
        other.kill()
        os._exit(0)

spinning.SleepingTeam, spinning.INTERVAL = Seen, 0.2
other = subprocess.Popen([sys.executable, "-c", "import time\\nend = time.time() + 60\\nwhile time.time() < end: pass"])
spinning.spin_less_when_crowded(max(2, len(os.sched_getaffinity(0))))
time.sleep(60)
other.kill()
"""


@pytest.mark.system
@needs_libgomp
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two threads on one core never spin for long")
def test_threads_wait_with_less_cpu_time_while_the_team_sleeps():
    spinning, yielding, again = map(float, run(WAITING).split())
    assert yielding < spinning / 2
    assert yielding < again / 2


@needs_libgomp
def test_another_program_is_noticed():
    assert run(BESIDE).strip() == "gathered"


def run(code: str) -> str:
    """What ``code`` prints in a Python of its own, with libgomp's defaults."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stderr
    return done.stdout
