"""SLURM is queried once for all jobs; what it answers, and that it does not, is read as the manual pages write it."""

from pathlib import Path

import pytest
from sweep.made_up_sweep import Slurm

from dira_scale.base.errors import UserError
from dira_scale.sweep import queue
from dira_scale.sweep.queue import JobState, cancel, hours, query


def test_one_squeue_and_one_sacct_answer_for_all(slurm: Slurm) -> None:
    slurm.says("squeue", {"12_0": "RUNNING|None|n[1-2]", "12_1": "PENDING|JobArrayTaskLimit|"})
    slurm.says("sacct", {"12_[2,4-5%1]": "CANCELLED by 1000", "13_0": "NODE_FAIL", "13_1": "COMPLETED"})
    jobs = [f"12_{i}" for i in range(6)] + ["13_0", "13_1", "14_0"]
    answer = query(jobs)
    assert answer.job("12_0") == JobState("RUNNING", "", "n[1-2]")
    assert answer.job("12_1") == JobState("PENDING", "JobArrayTaskLimit")
    assert [answer.job(job).state for job in jobs[2:]] == [
        "CANCELLED", "GONE", "CANCELLED", "CANCELLED", "NODE_FAIL", "COMPLETED", "GONE",
    ]  # fmt: skip
    assert [call.split()[0] for call in slurm.calls] == ["squeue", "sacct"]
    assert "--jobs=12,13,14 " in slurm.calls[0] and "--jobs=12,13,14 " in slurm.calls[1]


def test_accounting_has_the_exit_codes_of_jobs_that_broke_and_is_believed_of_those_alone(slurm: Slurm) -> None:
    """squeue still knows the first; of a running one accounting has an earlier life, and it lags behind the queue."""
    slurm.says("squeue", {"7_0": "FAILED|NonZeroExitCode|n1", "7_1": "RUNNING|None|n2"})
    slurm.says("sacct", {
        "7_0": "FAILED|0:9|n1", "7_1": "FAILED|1:0|n2", "7_2": "OUT_OF_MEMORY|0:125|None assigned",
        "7_3": "COMPLETED|0:0|n1", "7_[4-9%1]": "PENDING",
    })  # fmt: skip
    answer = query([f"7_{i}" for i in range(5)])
    assert answer.job("7_0") == JobState("FAILED", "exit code 0:9", "n1")
    assert answer.job("7_1") == JobState("RUNNING", "", "n2")
    assert str(answer.job("7_2")) == "OUT_OF_MEMORY (exit code 0:125)" and not answer.job("7_2").nodes
    assert (str(answer.job("7_3")), answer.job("7_4").state) == ("COMPLETED", "GONE")


def test_one_scancel_for_all_and_no_call_more_than_is_needed(slurm: Slurm) -> None:
    """sacct is left alone where squeue knows all, and both where there are no jobs."""
    slurm.says("squeue", {"7_0": "PENDING|ReqNodeNotAvail, UnavailableNodes:n3|"})
    assert query(["7_0"]).job("7_0").reason == "ReqNodeNotAvail, UnavailableNodes:n3"
    query([])
    cancel(["7_0", "7_2", "8", "9_1"])
    cancel([])
    assert len(slurm.calls) == 2 and slurm.calls[1] == "scancel --quiet 7_[0,2] 8 9_[1]"


@pytest.mark.parametrize(
    ("squeue", "sacct", "state", "problem"),
    [
        ("slurm_load_jobs error: Invalid job id specified", "", "GONE", ""),
        ("", "Slurm accounting storage is disabled", "GONE", "sacct failed: Slurm accounting storage is disabled"),
        ("Unable to contact slurm controller", "", "UNKNOWN", "squeue failed: Unable to contact slurm controller"),
    ],
)
def test_what_an_error_says_of_a_job(slurm: Slurm, squeue: str, sacct: str, state: str, problem: str) -> None:
    slurm.says("squeue", error=squeue)
    slurm.says("sacct", error=sacct)
    answer = query(["7_0"])
    assert (answer.job("7_0"), answer.problem) == (JobState(state, problem), problem)


def test_one_that_does_not_answer_or_is_not_there_is_no_end(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "SECONDS", 0.2)
    (slurm.bin / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    assert "not answered within 0.2 s" in query(["7_0"]).problem
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "squeue is not installed here" in query(["7_0"]).problem
    with pytest.raises(UserError, match="scancel is not installed here"):
        cancel(["7_0"])


GPU = "billing=8,cpu=8,gres/gpu=2,mem=64G,node=1"


def test_every_life_of_every_job_counts_in_the_gpu_hours(slurm: Slurm) -> None:
    slurm.says("usage", {"5": "3600|cpu=8,mem=4G", "6_0": f"100|{GPU}", "6_1": f"360|{GPU}", "6_10": f"9|{GPU}"})
    with (slurm.bin / "usage.txt").open("a") as file:
        file.write(f"6_0|1700|{GPU}\n")  # its second life
    assert hours(["5", "6_0", "6_1"]) == "1.20 GPU-hours"  # 2 * (100 + 1700 + 360) s
    assert "--duplicates" in slurm.calls[-1] and "--jobs=5,6" in slurm.calls[-1]
    slurm.says("usage", {"6_0": "1800|cpu=4,node=1", "6_1": "0|"})
    assert hours(["6_0", "6_1"]) == "2.00 core-hours, no GPU"
    slurm.says("usage", error="accounting is disabled")
    assert hours(["6_0"]) == "GPU-hours unknown: sacct failed: accounting is disabled"
    slurm.says("usage")
    assert hours(["6_0"]) == "GPU-hours unknown: sacct has none of the jobs"
