"""The end of a try: what follows it, as a table; why it came, as tasks write it down and as torchrun prints it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dira_scale.sweep import ending
from dira_scale.sweep.ending import after, last_message
from dira_scale.sweep.records import Launch, Run, SweepFolder, Try

# The end of what torch 2.9 prints, after the launcher's own traceback.
SUMMARY = """
Failures:
[1]:
  time      : 2026-11-22_10:12:19
  host      : n4
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 4711)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_10:12:18
  host      : n4
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 4712)
"""


def tries(*ended: tuple[int | None, int | None, int | None]) -> list[Try]:
    """Tries with these (exit code, step before, step); without an exit code they have no end."""
    return [
        Try(i, "slurm", "7", i, ["n1"], 0.0, None if code is None else 1.0, code, before, step)
        for i, (code, before, step) in enumerate(ended)
    ]


@pytest.mark.parametrize(
    ("ended", "stopped", "cancelled", "follows"),
    [
        ([(0, 0, 9)], "", False, "done"),
        ([(0, 0, 9)], "preempted", True, "done"),
        ([(75, 0, 5)], "preempted", False, "requeue"),
        ([(75, 0, 5)] * 2 + [(75, 5, 5)] * 2, "limit", False, "requeue"),
        ([(75, 0, 5)] + [(75, 5, 5)] * 3, "limit", False, "failed"),  # never gets to a step within its time
        ([(75, None, None)] * 3, "limit", False, "failed"),
        ([(75, None, None)] * 9, "preempted", False, "requeue"),
        ([(75, 0, 5)], "preempted", True, "leave"),
        ([(75, 0, 5)], "ended", False, "leave"),
        ([(75, 0, 5)], "", False, "leave"),
        ([(-9, 0, 5)], "preempted", False, "requeue"),
        ([(1, 0, 5)], "ended", False, "leave"),
        ([(2, None, None)], "", False, "failed"),
        ([(2, None, None)], "preempted", False, "failed"),
        ([(2, 5, None)], "", False, "retry"),
        ([(2, 5, 5)], "", False, "retry"),  # what has trained has good input: the node or the disk
        ([(1, None, None)], "", False, "retry"),
        ([(1, None, None)], "", True, "leave"),
        ([(1, None, None)] * 2, "", False, "retry"),
        ([(1, None, None)] * 3, "", False, "failed"),
        ([(1, 0, 4), (1, 4, 4), (1, 4, 4)], "", False, "retry"),  # the first made steps
        ([(1, 0, 4), (1, 4, 4), (1, 4, 4), (1, 4, 4)], "", False, "failed"),
        ([(1, None, None), (None, None, None), (-9, None, None)], "", False, "failed"),  # killed with all of its job
        ([(1, 0, 0), (None, 0, None), (1, 3, 3)], "", False, "retry"),  # the killed one had made steps
        ([(1, 0, 0), (75, 0, 0), (1, 0, 0), (1, 0, 0)], "", False, "failed"),
        ([(1, 0, 0), (75, 0, 2), (1, 2, 2), (1, 2, 2)], "", False, "retry"),
        ([(1, step, step + 1) for step in range(50)], "", False, "retry"),
    ],
)
def test_what_follows(
    ended: list[tuple[int | None, int | None, int | None]], stopped: str, cancelled: bool, follows: str
) -> None:
    assert after(tries(*ended), stopped, cancelled, limit=3) == follows


def task(rank: int) -> Any:
    place = {"node": rank // 2, "hostnames": ["n3", "n4"], "num_tasks": 4, "num_nodes": 2}
    return SimpleNamespace(job_id="5_3", global_rank=rank, **place)


def test_the_task_that_ended_first_is_named_with_signal_and_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs").mkdir()
    sweep = SweepFolder(tmp_path)
    run = Run("train", "a", "pretrain", [], "train/a/output", launch=Launch(2, 2))
    sweep.add(run)
    sweep.output(run).mkdir()
    (sweep.output(run) / "status.json").write_text('{"step": 56, "reason": "rank 0 lost the other processes"}')
    assert ending.first_task(sweep, run, task(0)) == ""
    ending.record_task(sweep, run, task(2), 0)
    ending.record_task(sweep, run, task(3), -9)
    (sweep.path / "jobs" / "5_3_1_log.out").write_text("di step 56\nRuntimeError: CUDA error: no device\n")
    ending.record_task(sweep, run, task(1), 1)
    why = "rank 3 on n4: killed by SIGKILL at step 56: often memory (raise cluster.memory)"
    assert ending.first_task(sweep, run, task(0)) == why and sweep.tries(run.id) == []
    (log := tmp_path / "log").write_text("hung; nothing yet from rank 2, 3: stopped, gone, or slower\nparted")
    assert ending.silent_nodes(sweep, run, task(0), log) == []  # a task there has ended
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")  # the job's next life
    assert ending.silent_nodes(sweep, run, task(0), log) == ["n4"]
    for text in ("nothing yet from rank 1, 2: stopped", "di step 56"):
        log.write_text(text)
        assert ending.silent_nodes(sweep, run, task(0), log) == []
    assert ending.first_task(sweep, run, task(0)) == ""
    ending.record_task(sweep, run, task(1), 1)
    assert ending.first_task(sweep, run, task(0)) == "rank 1 on n3: RuntimeError: CUDA error: no device"


def test_torchruns_summary_is_read_and_other_signals_are_named_without_a_guess(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert ending.reason(-11, {}, log, "shard") == "killed by SIGSEGV"
    assert ending.reason(-60, {"step": 0}, log, "pretrain") == "killed by signal 60 at step 0"
    log.write_text("di step 56\n" + SUMMARY)
    why = ending.reason(1, {"step": 56, "reason": "lost"}, log, "pretrain")
    assert why.startswith("rank 1 on n4: killed by SIGKILL at step 56: often memory")


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ("", ""),
        ("step 1\nKeyError: 'x'\n\n", "KeyError: 'x'"),
        ("pretrain: warning: slow\npretrain: unknown key\nChildFailedError\n====\n", "pretrain: unknown key"),
        ("pretrain: warning: slow\nKilled\n", "Killed"),
    ],
)
def test_the_reason_is_the_commands_own_last_message(tmp_path: Path, printed: str, message: str) -> None:
    assert last_message(tmp_path / "000.log", "pretrain") == ""  # of a log that was never begun
    (tmp_path / "000.log").write_text(printed)
    assert last_message(tmp_path / "000.log", "pretrain") == message
