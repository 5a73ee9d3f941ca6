"""A sweep that is started again while other processes, machines or jobs are at it: nothing runs twice."""

import socket
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sweep.made_up_sweep import SHARDS, Slurm, begin, made_up_sweep

from dira_scale.base.errors import UserError
from dira_scale.sweep import watch
from dira_scale.sweep.config import Cluster, Sweep, SweepConfig
from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.status import known_statuses, read_statuses, show

A, B = "pretrain/lr0.1-seed0", "pretrain/lr0.01-seed0"


def config(executor: str) -> SweepConfig:
    hours = {"hours": 1.0, "signal_delay": 60} if executor == "slurm" else {}
    cluster = Cluster(executor, None, None, 1, None, 3, **hours)
    return SweepConfig("f", False, executor == "slurm", Sweep("tiny", {}), cluster)


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The runs of each submission."""
    result: list[list[str]] = []

    def submit(folder: SweepFolder, config: SweepConfig, runs: list[Run], queued: Any) -> None:
        result.append([run.id for run in runs])

    monkeypatch.setattr(watch, "submit", submit)
    return result


def carry_out(folder: SweepFolder, executor: str, start: list[str], prepared: list[str] | None = None) -> int:
    runs = [one.run for one in read_statuses(folder)[0].values()]
    chosen = [run for run in runs if run.id in start]
    return watch.carry_out(
        folder, config(executor), runs, chosen, lambda some: (prepared or []).extend(run.id for run in some)
    )


def test_what_another_process_has_submitted_meanwhile_is_not_submitted_again(
    tmp_path: Path, slurm: Slurm, submitted: list[list[str]]
) -> None:
    folder = made_up_sweep(tmp_path / "sweep", 2)
    slurm.says("squeue", {"5_0": "RUNNING|None|n1", "6_0": "PENDING|Dependency|", "6_1": "PENDING|Dependency|"})
    assert carry_out(folder, "slurm", [SHARDS, A, B]) == 0
    assert submitted == []


def test_runs_that_wait_for_one_that_is_started_again_wait_for_its_new_job(
    tmp_path: Path, slurm: Slurm, submitted: list[list[str]]
) -> None:
    """Their own was to begin once the old one has ended."""
    folder = made_up_sweep(tmp_path / "sweep", 2)
    begin(folder, SHARDS, "5_0", exit_code=1)
    slurm.says("squeue", {"6_0": "PENDING|Dependency|", "6_1": "PENDING|Dependency|"})
    slurm.says("sacct", {"5_0": "FAILED"})
    assert carry_out(folder, "slurm", [SHARDS]) == 0
    assert [sorted(one) for one in submitted] == [sorted([SHARDS, A, B])]
    assert slurm.calls[-1] in ("scancel --quiet 6_[0,1]", "scancel --quiet 6_[1,0]")


def test_this_machine_does_not_take_over_what_runs_elsewhere(tmp_path: Path, slurm: Slurm) -> None:
    folder = made_up_sweep(tmp_path / "sweep", 1)
    slurm.says("squeue", {"5_0": "RUNNING|None|n1", "6_0": "PENDING|Dependency|"})
    with pytest.raises(UserError, match=f"{SHARDS} is running already, in job"):
        carry_out(folder, "local", [])
    other = SweepFolder(tmp_path / "other")
    other.add(Run("shards", "tiny", "shard", [], "shards/tiny/output"))
    begin(other, SHARDS, "1", node=f"not-{socket.gethostname()}", cluster="local")
    with pytest.raises(UserError, match=f"{SHARDS} is running already, in job"):
        carry_out(other, "local", [])


def test_nothing_is_changed_by_a_command_that_another_process_keeps_out(tmp_path: Path, slurm: Slurm) -> None:
    folder, prepared = made_up_sweep(tmp_path / "sweep", 1), list[str]()
    with watch.in_control(folder), pytest.raises(UserError, match="is already running this sweep"):
        carry_out(folder, "slurm", [SHARDS], prepared)
    assert prepared == []


def test_without_accounting_a_sweep_goes_on_and_ends_with_the_reasons(
    tmp_path: Path, slurm: Slurm, submitted: list[list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """squeue has said that nothing is queued; how the jobs ended, the records know."""
    folder = made_up_sweep(tmp_path / "sweep", 1)
    begin(folder, SHARDS, "5_0", exit_code=1, reason="no disk")
    slurm.says("sacct", error="Slurm accounting storage is disabled")
    result, answer = read_statuses(folder)
    assert result[SHARDS].state == "failed" and "accounting storage" in answer.problem
    assert known_statuses(folder)[SHARDS].state == "failed"
    assert carry_out(folder, "slurm", [SHARDS]) == 0 and submitted == [[SHARDS]]
    assert watch._watch(folder, [folder.run(SHARDS)]) == 1 and f"{SHARDS}: failed, no disk" in caplog.text


def test_what_has_no_job_is_missing_and_watching_ends(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    folder.add(Run("shards", "tiny", "shard", [], "shards/tiny/output"))
    folder.add(Run("probe", "one", "probe", [], "probe/one/output", ["shards/tiny", "shards/removed"]))
    console = Console(force_terminal=True, width=80, file=(tmp_path / "shown").open("w"))
    result = show(folder, console, watch=0.01)
    assert {one["state"] for one in result["runs"]} == {"missing"}
