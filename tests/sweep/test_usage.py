"""What a sweep has used: sacct's hours, tries, and the share of their time in optimizer steps."""

import json
import time
from pathlib import Path

import pytest
from rich.console import Console
from sweep.made_up_sweep import SHARDS, Slurm, begin, made_up_sweep

from dira_scale.sweep.records import SweepFolder, Try
from dira_scale.sweep.status import read_statuses
from dira_scale.sweep.table import show
from dira_scale.sweep.usage import Usage, usage

A, B = "pretrain/lr0.1-seed0", "pretrain/lr0.01-seed0"
GPU = "billing=8,cpu=8,gres/gpu=2,mem=64G,node=1"


def rows(folder: SweepFolder, run_id: str, *of: tuple[int, float]) -> None:
    """Training rows: step, seconds in steps."""
    (output := folder.output(folder.run(run_id))).mkdir(parents=True)
    written = [json.dumps({"step": step, "split": "train", "time/step": seconds}) for step, seconds in of]
    written.insert(1, json.dumps({"step": of[0][0], "split": "val", "time/step": 1e9}))
    (output / "metrics.jsonl").write_text("\n".join([*written, '{"step": 99, "spl']))


def tried(folder: SweepFolder, run_id: str, job: str, seconds: float, code: int, step: int) -> None:
    attempt = folder.begin(run_id, Try(0, "slurm", job, 0, ["n1"], 1000.0, step_before=0))
    attempt.ended, attempt.exit_code, attempt.step = 1000.0 + seconds, code, step
    folder.write(run_id, attempt)


@pytest.fixture
def ended(tmp_path: Path, slurm: Slurm) -> SweepFolder:
    """One run done in two tries of 100 and 300 s, of which 250 s in steps, some made twice; one failed at once."""
    folder = made_up_sweep(tmp_path / "sweep", 2)
    tried(folder, SHARDS, "5_0", 3600, 0, 0)
    tried(folder, A, "6_0", 100, 75, 20)
    tried(folder, A, "6_0", 300, 0, 30)
    rows(folder, A, (10, 60.0), (20, 70.0), (20, 90.0), (30, 100.0))
    tried(folder, B, "6_1", 100, 2, 0)
    slurm.says("usage", {"5_0": "3600|cpu=8,mem=4G", "6_0": f"100|{GPU}", "6_1": f"360|{GPU}", "6_10": f"9|{GPU}"})
    with (slurm.bin / "usage.txt").open("a") as file:
        file.write(f"6_0|1700|{GPU}\n")  # its second life
    return folder


def used(folder: SweepFolder) -> Usage:
    result = usage(SweepFolder(folder.path), read_statuses(SweepFolder(folder.path))[0])
    assert result
    return result


def test_every_life_of_every_job_counts_and_every_step_once(ended: SweepFolder, slurm: Slurm) -> None:
    attempt = used(ended)
    assert attempt.counts == {"done": 2, "failed": 1} and attempt.tries == 4
    assert attempt.hours == pytest.approx((3600 + 500) / 3600)
    assert attempt.gpu_hours == pytest.approx(2 * (100 + 1700 + 360) / 3600)
    assert attempt.core_hours == pytest.approx(8 * (3600 + 100 + 1700 + 360) / 3600)
    assert attempt.efficiency == pytest.approx((60 + 90 + 100) / 500)
    assert str(attempt) == "2 done, 1 failed; 4 tries of 1.14 h together; 1.20 GPU-hours; efficiency 50 %"
    assert "--duplicates" in slurm.calls[-1] and "--jobs=5,6" in slurm.calls[-1]


def test_cores_where_no_job_had_a_gpu(ended: SweepFolder, slurm: Slurm) -> None:
    slurm.says("usage", {"6_0": "1800|cpu=4,node=1", "6_1": "0|"})
    assert "; 2.00 core-hours, no GPU; " in str(used(ended))


def test_what_nothing_tells_is_unknown(ended: SweepFolder, slurm: Slurm) -> None:
    slurm.says("usage", error="accounting is disabled")
    ended.output(ended.run(A)).joinpath("metrics.jsonl").unlink()
    text = str(used(ended))
    assert "GPU-hours unknown (sacct failed: accounting is disabled); efficiency unknown" in text
    slurm.says("usage")
    assert "GPU-hours unknown (sacct has none of the jobs)" in str(used(ended))


def test_it_ends_the_status_only_when_nothing_is_at_work(
    ended: SweepFolder, slurm: Slurm, capsys: pytest.CaptureFixture[str]
) -> None:
    show(ended, Console(width=200), None)
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 done, 1 failed; 4 tries of 1.14 h together;")
    (ended.path / B / "tries" / "000.json").unlink()
    begin(ended, B, "6_1")
    slurm.says("squeue", {"6_1": "RUNNING|None|n2"})
    show(SweepFolder(ended.path), Console(width=200), None)
    assert "efficiency" not in capsys.readouterr().out


def test_a_killed_try_lasted_until_it_printed_last(ended: SweepFolder, slurm: Slurm) -> None:
    attempt = ended.begin(B, Try(0, "slurm", "6_1", 0, ["n1"], time.time() - 500, step_before=0))
    log = ended.log(B, attempt.number)
    log.touch()
    slurm.says("squeue", {"6_1": "NODE_FAIL|None|n2"})
    assert used(ended).hours == pytest.approx((3600 + 500 + 500) / 3600, rel=1e-3)


def test_what_has_ended_is_read_and_queried_once(ended: SweepFolder, slurm: Slurm) -> None:
    """Until there is another try."""
    first = used(ended)
    metrics = ended.output(ended.run(A)) / "metrics.jsonl"
    metrics.write_text("")
    slurm.says("usage", error="accounting is disabled")
    assert used(ended) == first
    assert len([call for call in slurm.calls if "ElapsedRaw" in call]) == 1
    tried(ended, A, "6_0", 100, 0, 30)
    again = used(ended)
    assert again.gpu_hours is None and again.efficiency is None


@pytest.mark.parametrize("content", ["[]", "{", '{"of": {}, "usage": {"later": 1}}'])
def test_what_is_kept_and_damaged_is_made_again(ended: SweepFolder, slurm: Slurm, content: str) -> None:
    first = used(ended)
    (ended.path / "usage.json").write_text(content)
    assert used(ended) == first == used(ended)


def test_accounting_that_may_lag_behind_is_asked_again(ended: SweepFolder, slurm: Slurm) -> None:
    attempt = ended.begin(B, Try(0, "slurm", "6_1", 0, ["n1"], time.time() - 9, step_before=0))
    attempt.ended, attempt.exit_code = time.time(), 1
    ended.write(B, attempt)
    before = used(ended).gpu_hours
    slurm.says("usage", {"6_1": f"3600|{GPU}"})
    assert used(ended).gpu_hours == 2.0 != before
