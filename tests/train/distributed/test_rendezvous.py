"""Every error that gloo raises once another process is gone is known for what it means."""

import sys

from harness import finish

from dira_scale.train.distributed.rendezvous import is_connection_lost

# Two members of a group in one process. The second never takes part, so the first's sums wait in vain: one of them has
# waited too long, one was under way then, one begins after it.
WAIT_IN_VAIN = """
import os, threading
from datetime import timedelta
import torch
import torch.distributed as dist
from dira_scale.train.distributed.rendezvous import is_connection_lost

store, members = dist.HashStore(), {}

def join(rank):
    members[rank] = dist.ProcessGroupGloo(store, rank, 2, timedelta(seconds=0.3))

joining = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
[thread.start() for thread in joining]
[thread.join() for thread in joining]

def under_way():
    return members[0].allreduce([torch.ones(4)])

def told(work):
    try:
        work.wait()
    except Exception as error:
        return f"{is_connection_lost(error)} {error}"

first, second = under_way(), under_way()
for line in told(first), told(second), told(under_way()):
    print(line)
os._exit(0)  # gloo would abort a process that ends with its connections broken
"""


def test_whichever_collective_notices_that_another_process_is_gone() -> None:
    lines = finish([sys.executable, "-c", WAIT_IN_VAIN]).splitlines()
    assert len(lines) == 3 and all(line.startswith("True ") for line in lines), lines
    assert any("Timed out waiting" in line for line in lines), lines  # the one that waited too long


def test_an_error_of_the_program_is_not_taken_for_a_lost_connection() -> None:
    for error in (RuntimeError("shapes differ"), KeyError("gloo"), ValueError("pair")):
        assert not is_connection_lost(error)
