"""Logs are found, runs cancelled before their jobs end, failed ones given back to be submitted again."""

from pathlib import Path

import pytest
from sweep.made_up_sweep import SHARDS, Slurm, begin, made_up_sweep

from dira_scale.base.errors import UserError
from dira_scale.sweep.records import SweepFolder
from dira_scale.sweep.status import known_statuses, read_statuses
from dira_scale.sweep.subcommands import cancel_runs, choose, last_lines, runs_to_retry, show_logs

A, B, C, D = (f"pretrain/lr{lr}-seed{seed}" for seed in (0, 1) for lr in (0.1, 0.01))


@pytest.fixture
def going(tmp_path: Path, slurm: Slurm) -> SweepFolder:
    """A runs, B has failed, C waits in the queue, D is done."""
    folder = made_up_sweep(tmp_path / "sweep", 4)
    begin(folder, SHARDS, "5_0", exit_code=0)
    begin(folder, A, "6_0")
    failed = begin(folder, B, "6_1", exit_code=1, step=0, reason="it broke")
    begin(folder, D, "6_3", exit_code=0)
    folder.log(B, failed.number).write_text("first\n" + "bar 1\rbar 2\r\nlast\n")
    slurm.says("squeue", {"6_0": "RUNNING|None|n1", "6_1": "FAILED|NonZeroExitCode|n1", "6_2": "PENDING|Priority|"})
    return folder


def test_runs_are_chosen_by_id_name_or_pattern(going: SweepFolder) -> None:
    assert choose(going, [A]) == [A]
    assert choose(going, ["lr0.1-seed0"]) == [A]
    assert choose(going, ["*seed0", A]) == [B, A]  # each once, in the order of the folder
    assert choose(going, ["pretrain/*"]) == [B, D, A, C]
    with pytest.raises(UserError, match=r"lr0.2-seed0: no run of .*; did you mean 'lr0.\d-seed0'"):
        choose(going, ["lr0.2-seed0"])


def test_logs_of_what_failed(going: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    show_logs(going, [], 2)
    header, file, _, *rest = capsys.readouterr().out.splitlines()
    assert header == f"==> {B}: failed, it broke" and file.strip() == str(going.log(B, 0))
    assert rest == ["bar 2", "last", ""]
    show_logs(going, [A], 2)
    assert "nothing printed yet" in capsys.readouterr().out


def test_without_a_try_the_job_is_asked(going: SweepFolder, slurm: Slurm, capsys: pytest.CaptureFixture[str]) -> None:
    (going.path / "jobs").mkdir()
    (going.path / "jobs" / "6_2_0_log.out").write_text("python: not found\n")
    slurm.says("squeue", {"6_2": "FAILED|NonZeroExitCode|n1"})
    show_logs(going, [C], 5)
    assert "python: not found" in capsys.readouterr().out


def test_the_last_lines_of_a_huge_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("".join(f"line {i}\n" for i in range(100_000)))
    assert last_lines(tmp_path / "log", 3) == ["line 99997", "line 99998", "line 99999"]


def test_cancelling_marks_all_before_one_scancel(going: SweepFolder, slurm: Slurm) -> None:
    count = f"ls {going.path}/pretrain/*/cancelled | wc -l"
    (slurm.bin / "scancel").write_text(f'#!/bin/sh\n({count}; echo "$@") >> {slurm.calls_file}\n')
    assert cancel_runs(going, []) == [A, C]
    assert slurm.calls[-2:] == ["2", "--quiet 6_[0,2]"]
    assert [read_statuses(going)[0][run].state for run in (A, B, C, D)] == ["cancelled", "failed", "cancelled", "done"]
    cancel_runs(going, [C])  # again: in case that SLURM did not answer
    assert slurm.calls[-1] == "--quiet 6_[2]"
    assert cancel_runs(going, [B, D]) == [B] and going.is_cancelled(B)  # what has failed, only by its name


def test_marks_stay_where_slurm_does_not_answer_and_nothing_is_given_back(going: SweepFolder, slurm: Slurm) -> None:
    slurm.says("scancel", error="Unable to contact slurm controller")
    with pytest.raises(UserError, match="scancel failed: Unable to contact"):
        cancel_runs(going, [A])
    assert going.is_cancelled(A)
    slurm.says("squeue", error="Socket timed out")  # a failed run's job may be queued again
    with pytest.raises(UserError, match=r"Socket timed out.*nothing was started"):
        known_statuses(going)


def test_failed_runs_are_given_back_with_those_that_they_block(tmp_path: Path, slurm: Slurm) -> None:
    folder = made_up_sweep(tmp_path / "sweep", 2)
    begin(folder, SHARDS, "5_0", exit_code=1)
    begin(folder, A, "6_0", reason=f"blocked: {SHARDS} not done")
    slurm.says("sacct", {"5_0": "FAILED", "6_0": "COMPLETED", "6_1": "CANCELLED by 0"})
    assert [one.state for one in read_statuses(folder)[0].values()] == ["failed", "blocked", "blocked"]
    assert runs_to_retry(folder, known_statuses(folder), []) == [SHARDS, B, A]
    assert runs_to_retry(folder, known_statuses(folder), [SHARDS]) == [SHARDS, B, A]


def test_only_what_failed_is_given_back(going: SweepFolder) -> None:
    assert runs_to_retry(going, known_statuses(going), []) == [B]
    with pytest.raises(UserError, match=f"{D} is done; retry is for runs that failed"):
        runs_to_retry(going, known_statuses(going), [D])
    going.cancel(C)
    assert runs_to_retry(going, known_statuses(going), [C]) == [C]
    assert runs_to_retry(going, known_statuses(going), ["*"]) == [B, C]  # a pattern passes over what is done or runs
