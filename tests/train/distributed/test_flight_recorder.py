"""Two processes call collectives that do not fit: both say where, and their files have the last ones."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import current_thread

import pytest
from harness import together

from dira_scale.train.distributed import flight_recorder
from dira_scale.train.distributed.flight_recorder import RecordedCollective, parting

# Two steps are right, with the collectives of FSDP2. In the third the second process makes a mistake, after which each
# of them has called COUNT collectives and hangs.
TWO = """
import os, sys, threading, time
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from dira_scale.train.distributed import flight_recorder
from dira_scale.train.distributed.collectives import gather, new_group, set_timeout

mistake, rank, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
wrong, never = mistake if rank == 1 else "", timedelta(seconds=600)
set_timeout(never)
dist.init_process_group("gloo", f"file://{folder}/meet", timeout=never, rank=rank, world_size=2)
signals = new_group("signals")
model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 6))
for part in (*model, model):
    fully_shard(part)

def train():
    for step in (1, 2, 3):
        made = wrong if step == 3 else ""
        flight_recorder.begin(step)
        if made != "leaves out":
            dist.all_reduce(torch.ones(3), group=signals)
        model(torch.ones(2, 4)).sum().backward()
        gather(torch.ones(2, 7))
        dist.all_reduce(torch.ones(11))

training = threading.Thread(target=train, daemon=True)
training.start()
while len(flight_recorder.recorded()) < count:
    time.sleep(0.05)
if mistake == "none":
    training.join()
print(flight_recorder.exchange(folder / "stacks" / f"rank-{rank}.txt", 120), flush=True)
os._exit(0)  # gloo would abort a process that ends with its connections broken
"""


@pytest.mark.parametrize(
    ("mistake", "counts", "said", "last"),
    [
        (
            "leaves out",
            (19, 19),
            "the processes part in step 3 at collective 17 of group 0 default_pg: rank 0 called nothing; "
            "rank 1 called gloo:all_gather Float[20], "  # half of the first layer's 8 x 4 weights and 8 biases
            "and in step 3 at collective 3 of group 1 signals: rank 0 called gloo:all_reduce Float[3]; "
            "rank 1 called nothing",
            "step 3: gloo:all_reduce Float[3], number 3 of group 1 signals *",
        ),
        ("none", (27, 27), "", "step 3: gloo:all_reduce Float[11], number 24 of group 0 default_pg"),
    ],
)
def test_a_mistake_is_named(mistake: str, counts: tuple[int, int], said: str, last: str, tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", TWO, mistake, str(r), str(counts[r]), str(tmp_path)] for r in (0, 1)]
    assert [printed.splitlines()[-1] for printed in together(commands)] == [said, said]
    written = (tmp_path / "stacks" / "rank-0.txt").read_text().splitlines()
    assert len(written) == 2 + min(counts[0], 30) and written[-1] == last


def record(*calls: str, first: int = 1) -> list[RecordedCollective]:
    return [RecordedCollective("0 all", number, call, number, True) for number, call in enumerate(calls, first)]


def test_processes_with_the_same_call_are_named_together() -> None:
    records = [record("a", "b"), record("a", "c"), record("a", "b"), record("a")]
    told = "rank 0, 2 called b; rank 1 called c; rank 3 called nothing"
    assert parting(records) == f"the processes part in step 2 at collective 2 of group 0 all: {told}"


def test_what_one_process_no_longer_has_is_not_compared() -> None:
    assert parting([record("a", "b", "c"), record("c", first=3)]) == ""
    behind = parting([record("a"), record("d", first=4)])
    assert behind.endswith("collective 4 of group 0 all: rank 0 called nothing; rank 1 called d")
    assert parting([record("a", "b"), []]) == ""


@pytest.mark.parametrize("absent", [set[int](), {0, 1, 9}])
def test_one_of_many_processes_reads_all_records(
    absent: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without rank 0 it is the lowest that has written one; the others read what it has found."""
    read, opened = Path.read_text, list[str]()
    monkeypatch.setattr(Path, "read_text", lambda path: opened.append(path.name) or read(path))
    monkeypatch.setattr(flight_recorder, "world", lambda: 64)
    calls = {rank: record("a", "x" if rank == 50 else "b") for rank in {*range(64)} - absent}
    monkeypatch.setattr(flight_recorder, "recorded", lambda: calls[int(current_thread().name)])

    def exchanged(rank: int, partly: bool) -> str:
        current_thread().name = str(rank)
        return flight_recorder.exchange(tmp_path / str(partly) / f"rank-{rank}.txt", 2, partly)

    for partly in (True, False):
        (tmp_path / str(partly)).mkdir()
        opened.clear()
        with ThreadPoolExecutor(64) as pool:
            (said,) = set(pool.map(exchanged, calls, [partly] * 64))
        assert ("rank 50 called x" in said) == (partly or not absent)
        assert said.endswith("; rank 0, 1, 9 has written nothing") == (partly and bool(absent))
        assert opened.count("parted") == len(calls) - 1
        assert len(opened) == len(calls) - 1 + len(calls) * (partly or not absent)
