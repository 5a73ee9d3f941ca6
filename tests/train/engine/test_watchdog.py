"""The watchdog, in processes of its own: it ends them. All wait at the same time."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from forked import Forked, Started
from harness import job

RUN = """
import sys, threading, time
from pathlib import Path
from dira_scale.base.config import logs
from dira_scale.train.runs.lease import Lease
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.engine.watchdog import Watchdog, alive

TIMINGS.linger, TIMINGS.after_loss = 0.5, 1
logs.start("finetune")

def stand_still():
    time.sleep(60)

folder, taken_over = Path(sys.argv[1]), sys.argv[2] == "ghost"
lease = Lease(folder)
lost = sys.argv[2] == "lost"
with Watchdog(folder, lease.number, 40 if lost else 2, lambda: lost, (folder / "rescued").touch):
    for _ in range(20):
        time.sleep(0.15)  # longer in all than the watchdog waits
        alive()
    print("still here", flush=True)
    if taken_over:
        (folder / "leases" / "000002.json").touch()
    stand_still()
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[Path, Forked | Started]]]:
    """What each process of this file is given as its folder, and the process."""
    with ExitStack() as ending:
        actual = {}
        for name, script in (("run", RUN), ("ghost", RUN), ("lost", RUN), ("store", SAVE)):
            folder = tmp_path_factory.mktemp(name)
            actual[name] = folder, ending.enter_context(job([sys.executable, "-c", script, str(folder), name]))
        yield actual


def test_it_lets_a_run_that_moves_on_alone_and_ends_one_that_stands_still_with_its_stacks(started) -> None:
    tmp_path, process = started["run"]
    assert process.wait(120) == 1, process.printed()
    first, *reported = process.printed().splitlines()
    assert first == "still here"
    [line] = [line for line in reported if "no step" in line]
    assert line.startswith("finetune: no step for 2 s (watchdog=2). Where every process stood: ")
    assert line.endswith("stacks. The same command resumes from the newest checkpoint")
    assert line in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "rescued").exists()
    stacks = (tmp_path / "stacks" / "rank-0.txt").read_text()
    assert "in stand_still" in stacks and "lease.py" in stacks  # every thread's


def test_it_waits_less_once_another_process_is_gone(started) -> None:
    tmp_path, process = started["lost"]
    assert process.wait(120) == 1, process.printed()
    first, *reported = process.printed().splitlines()
    assert first == "still here"
    [line] = [line for line in reported if "no step" in line]
    assert line.startswith("finetune: no step for 1 s, and another process is gone. Where every process stood: ")
    assert "in stand_still" in (tmp_path / "stacks" / "rank-0.txt").read_text()


def test_a_ghost_that_stands_still_ends_and_writes_nothing(started) -> None:
    tmp_path, process = started["ghost"]
    assert process.wait(120) == 1
    assert process.printed().startswith("still here\n")
    assert not (tmp_path / "stacks").exists() and not (tmp_path / "log.txt").exists()


SAVE = """
import sys, time
from pathlib import Path
import torch
from dira_scale.train.runs.checkpoint import Checkpointer, NotSavedError, replicated, writer
from dira_scale.train.runs.lease import Lease
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.engine.watchdog import Watchdog, alive

write_atomic, seconds = writer.write_atomic, 3

def slowly(path, *rest):
    time.sleep(seconds if path.name.startswith("part") else 0)
    write_atomic(path, *rest)

writer.write_atomic, TIMINGS.hang_after, TIMINGS.pulse = slowly, 60, 0.1
lease = Lease(Path(sys.argv[1]))
with Watchdog(lease.folder.parent, lease.number, seconds=2):
    saver = Checkpointer(lease.folder.parent, 9, 0, 1, alive=alive)
    saver.save(1, replicated({"x": torch.ones(3)}), {}, {})
    saver.wait()
    print("written", flush=True)
    seconds, TIMINGS.hang_after = 3600, 4
    saver.save(2, replicated({"x": torch.ones(3)}), {}, {})
    try:
        saver.wait()
    except NotSavedError as error:
        print(error, flush=True)
lease.release()
"""


def test_a_slow_store_is_waited_for_and_one_that_hangs_ends_the_run_in_bounded_time(started) -> None:
    """Training waits for its checkpoints for longer than the watchdog does."""
    tmp_path, process = started["store"]
    assert process.wait(120) == 0, process.printed()
    slow, hanging = process.printed().splitlines()
    assert slow == "written" and (tmp_path / "000000001" / "index.json").exists()
    assert hanging.startswith("the checkpoint of step 2 is not written by rank(s) 0 after 4 s: the disk or store hangs")
    assert not (tmp_path / "000000002").exists()
