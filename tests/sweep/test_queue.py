"""SLURM is asked once for all jobs; what it answers, and that it does not, is read as the manual pages write it."""

from pathlib import Path

import pytest
from sweep.made_up_sweep import Slurm

from dira_scale.errors import UserError
from dira_scale.sweep import queue
from dira_scale.sweep.queue import JobState, ask, cancel, expand, hint


@pytest.mark.parametrize(
    ("written", "tasks"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[3]", ["12_3"]),
        ("12_[3-5]", ["12_3", "12_4", "12_5"]),
        ("12_[0,3-5,9%4]", ["12_0", "12_3", "12_4", "12_5", "12_9"]),
        ("12_[0-10:5%1]", ["12_0", "12_5", "12_10"]),
    ],
)
def test_ranges_of_waiting_tasks(written: str, tasks: list[str]) -> None:
    assert expand(written) == tasks


def test_one_squeue_and_one_sacct_answer_for_all(slurm: Slurm) -> None:
    slurm.says("squeue", {"12_0": "RUNNING|None|n[1-2]", "12_[1-3%1]": "PENDING|JobArrayTaskLimit|"})
    slurm.says("sacct", {"12_4": "CANCELLED by 1000", "13_0": "NODE_FAIL", "13_1": "COMPLETED"})
    asked = [f"12_{i}" for i in range(5)] + ["13_0", "13_1", "14_0"]
    answer = ask(asked)
    assert answer.job("12_0") == JobState("RUNNING", "", "n[1-2]")
    assert {answer.job(f"12_{i}") for i in (1, 2, 3)} == {JobState("PENDING", "JobArrayTaskLimit")}
    assert [answer.job(job).state for job in asked[4:]] == ["CANCELLED", "NODE_FAIL", "COMPLETED", "GONE"]
    assert [call.split()[0] for call in slurm.calls] == ["squeue", "sacct"]
    assert "--jobs=12,13,14 " in slurm.calls[0] and "--jobs=12,13,14 " in slurm.calls[1]


def test_accounting_says_how_a_job_broke(slurm: Slurm) -> None:
    """squeue still knows the first; the memory is its steps'."""
    slurm.says("squeue", {"7_0": "FAILED|NonZeroExitCode|n1", "7_1": "RUNNING|None|n2"})
    slurm.says("sacct", {
        "7_0": "FAILED|0:9|", "7_0.batch": "FAILED|0:9|2.50M", "7_0.0": "FAILED|9:0|61035.16M",
        "7_1": "FAILED|1:0|", "7_2": "OUT_OF_MEMORY|0:125|", "7_3": "COMPLETED|0:0|",
    })  # fmt: skip
    answer = ask(["7_0", "7_1", "7_2", "7_3"])
    assert answer.job("7_0") == JobState("FAILED", measured="exit code 0:9, 64.0 GB of memory, says sacct")
    assert answer.job("7_1") == JobState("RUNNING", "", "n2")  # accounting has an earlier life
    assert answer.job("7_2").measured == "exit code 0:125, says sacct" and not answer.job("7_3").measured


def test_sacct_is_left_alone_where_squeue_knows_all_and_both_where_nothing_is_asked(slurm: Slurm) -> None:
    slurm.says("squeue", {"7_0": "PENDING|(ReqNodeNotAvail, UnavailableNodes:n3)|"})
    assert ask(["7_0"]).job("7_0").reason == "ReqNodeNotAvail, UnavailableNodes:n3"
    ask([])
    assert len(slurm.calls) == 1


def test_accounting_that_lags_behind_the_queue_is_not_believed(slurm: Slurm) -> None:
    slurm.says("squeue", {"7_[1-9%1]": "PENDING|JobArrayTaskLimit|"})
    slurm.says("sacct", {"7_[0-9%1]": "PENDING"})  # task 0 was cancelled a moment ago
    answer = ask(["7_0", "7_1"])
    assert (answer.job("7_0").state, answer.job("7_1").state) == ("GONE", "PENDING")


def test_a_job_that_squeue_has_never_heard_of_is_no_error(slurm: Slurm) -> None:
    slurm.says("squeue", error="slurm_load_jobs error: Invalid job id specified")
    answer = ask(["7_0"])
    assert answer.job("7_0").state == "GONE" and not answer.problem


def test_without_accounting_what_left_the_queue_is_gone_and_it_is_said(slurm: Slurm) -> None:
    slurm.says("sacct", error="Slurm accounting storage is disabled")
    assert ask(["7_0"]).job("7_0") == JobState("GONE", "sacct failed: Slurm accounting storage is disabled")


def test_a_controller_that_is_down_leaves_all_unknown(slurm: Slurm) -> None:
    slurm.says("squeue", error="slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    answer = ask(["7_0"])
    assert answer.job("7_0").state == "UNKNOWN" and "Unable to contact" in answer.job("7_0").reason
    assert len(slurm.calls) == 1


def test_one_that_does_not_answer_is_not_waited_for(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "SECONDS", 0.2)
    (slurm.bin / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    assert "not answered within 0.2 s" in ask(["7_0"]).problem


def test_no_slurm_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "squeue is not installed here" in ask(["7_0"]).problem
    with pytest.raises(UserError, match="scancel is not installed here"):
        cancel(["7_0"])


def test_one_scancel_for_all(slurm: Slurm) -> None:
    cancel(["7_0", "7_2", "8", "9_1"])
    cancel([])
    assert slurm.calls == ["scancel --quiet 7_[0,2] 8 9_[1]"]


def test_hints_name_keys_of_a_profile() -> None:
    assert (
        hint("PartitionTimeLimit")
        == "PartitionTimeLimit: never starts: cluster.hours is more than its partition allows"
    )
    assert "drained" in hint("ReqNodeNotAvail, UnavailableNodes:n4") and "n4" in hint(
        "ReqNodeNotAvail, UnavailableNodes:n4"
    )
    assert hint("SomethingNew") == "SomethingNew"
