"""Which process ended first, as tasks write it down and as torchrun prints it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dira_scale.sweep import death
from dira_scale.sweep.records import Launch, Run, SweepFolder

GLOO = "rank 0 on n3 lost the other processes ([gloo/transport/tcp/pair.cc:538] Read error [10.0.0.4]:51123)"
# As torch 2.9 prints it, after the launcher's own traceback.
SUMMARY = """
dira_scale.pretrain FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-22_10:12:19
  host      : n4
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 4711)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_10:12:18
  host      : n4
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4712)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 4712
============================================================
"""


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path)


def of(sweep: SweepFolder, launcher: str = "tasks") -> Run:
    run = Run("train", "a", "pretrain", [], "train/a/output", launch=Launch(2, 2, launcher))
    sweep.add(run)
    return run


def task(rank: int, job: str = "5_3") -> Any:
    return SimpleNamespace(job_id=job, global_rank=rank, node=rank // 2, hostnames=["n3", "n4"])


def why(sweep: SweepFolder, run: Run, code: int, restart: int = 0) -> str:
    log = sweep.log(run.id, 0)
    first = death.first(sweep, run, "5_3", restart, log)
    return death.reason(code, {"step": 56, "reason": GLOO}, log, "pretrain", first)


def test_the_task_that_ended_first_is_named(sweep: SweepFolder) -> None:
    run = of(sweep)
    assert why(sweep, run, 1) == GLOO  # nothing better is known
    for rank, code in ((3, -9), (1, 1), (2, 0)):
        death.record(sweep, run, task(rank), 0, code)
    death.record(sweep, run, task(1), 1, 1)  # of the job's next life
    assert why(sweep, run, 1) == ("rank 3 on n4 was killed by SIGKILL at step 56: often memory (raise cluster.memory)")
    assert sweep.tries(run.id) == []


def test_one_that_has_printed_an_error_is_named_with_it(sweep: SweepFolder) -> None:
    run = of(sweep)
    (sweep.path / "jobs").mkdir()
    (sweep.path / "jobs" / "5_3_2_log.out").write_text("di step 56\nRuntimeError: CUDA error: no device\n")
    death.record(sweep, run, task(2), 0, 1)
    assert why(sweep, run, 1) == "rank 2 on n4 ended with exit code 1: RuntimeError: CUDA error: no device at step 56"


def test_torchruns_summary_is_read(sweep: SweepFolder) -> None:
    run = of(sweep, "torchrun")
    sweep.log(run.id, 0).write_text("di step 56\n" + SUMMARY)
    assert why(sweep, run, 1).startswith("rank 1 on n4 was killed by SIGKILL at step 56: often memory")


def test_other_signals_are_named_without_a_guess(sweep: SweepFolder) -> None:
    assert death.reason(-11, {}, Path("none"), "shard", None) == "killed by SIGSEGV"
    assert death.reason(-60, {"step": 0}, Path("none"), "pretrain", None) == "killed by signal 60 at step 0"
