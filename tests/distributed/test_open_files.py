"""The limit of open files, in processes of their own; what connecting takes, counted in processes that connect."""

import sys
from pathlib import Path

import pytest
from harness import finish, job

LIMITED = """
import logging, resource, sys
from dira_scale.distributed.open_files import allow_open_files
from dira_scale.errors import UserError

logging.basicConfig(level=logging.INFO, format="%(levelname)s", stream=sys.stdout)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, int(sys.argv[1])))
try:
    allow_open_files()
except UserError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
REFUSED = "allows a process 1024 open files, and connecting 341 processes takes at least 10"


@pytest.mark.parametrize(
    ("hard", "rank", "ranks", "expected"),
    [
        (4096, 1, 340, []),
        (1024, 1, 2, []),  # what most machines have
        (1024, 0, 200, ["WARNING"]),
        (1024, 1, 200, []),  # once for a machine
        (1024, 1, 341, [REFUSED]),  # three sockets to each of the others
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be_and_said_where_that_is_too_low(
    hard: int, rank: int, ranks: int, expected: list[str]
) -> None:
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    with job([sys.executable, "-c", LIMITED, str(hard)], **environment) as process:
        assert process.wait(60) == 0
        *lines, limit = process.printed().splitlines()
    assert limit == str(hard)
    assert len(lines) == len(expected), lines
    assert all(words in line for words, line in zip(expected, lines, strict=True)), lines


def test_one_process_keeps_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert finish([sys.executable, "-c", LIMITED, "1024"]).split() == ["200"]


CONNECTING = """
import os, sys
import psutil
import torch.distributed as dist
from dira_scale.distributed.collectives import control_group
from dira_scale.distributed.long_work import gather_beside_training
from dira_scale.distributed.open_files import connections
from dira_scale.distributed.rendezvous import meet
from dira_scale.engine.signals import Signals

rank, ranks, process = int(os.environ["RANK"]), 3, psutil.Process()
before = process.num_fds()
dist.init_process_group("gloo", store=meet(60), rank=rank, world_size=ranks)
control_group()
gather = gather_beside_training()
with Signals() as signals:
    signals.listen()
    signals.agreed(wait=True)
    gather(1)
    print(process.num_fds() - 2 - before, connections(rank, ranks), flush=True)  # two of a signal's own pipe
    dist.barrier()
    os._exit(0)
"""


def test_connecting_takes_as_many_open_files_as_is_said(tmp_path: Path) -> None:
    """Counted in three processes, in which all groups are made that a run has."""
    (tmp_path / "connecting.py").write_text(CONNECTING)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    printed = finish([*command, str(tmp_path / "connecting.py")])
    counted = sorted(tuple(map(int, line.split())) for line in printed.splitlines())
    assert len(counted) == 3
    assert counted[0] == counted[1] == (19, 19)
    taken, least = counted[2]  # the store's own differ between torch's versions
    assert 0 <= taken - least <= 2, counted
