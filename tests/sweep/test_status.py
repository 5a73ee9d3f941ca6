"""The status of a sweep, from made-up records and a made-up SLURM."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from sweep.made_up_sweep import SHARDS, Slurm, begin, made_up_sweep, train

from dira_scale import sweep
from dira_scale.base.errors import UserError, duration
from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.status import progress, read_statuses, show

A, B, C, D = (f"pretrain/lr{lr}-seed{seed}" for seed in (0, 1) for lr in (0.1, 0.01))


def printed(folder: SweepFolder, width: int = 200) -> list[str]:
    """The lines of the table; as if this were a terminal of that width."""
    console = Console(file=io.StringIO(), width=width)
    show(folder, console, None)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.fixture
def going(tmp_path: Path, slurm: Slurm) -> SweepFolder:
    """The shard run is done; of four that train one runs, one was requeued, one has failed, one waits."""
    folder = made_up_sweep(tmp_path / "sweep", 4)
    begin(folder, SHARDS, "5_0", exit_code=0)
    begin(folder, A, "6_0", "n2", seconds=100)
    train(folder, A, step=30)  # where it has validated, too
    begin(folder, B, "6_1", "n3", exit_code=75, step=10, reason="SIGUSR2: checkpoint written")
    train(folder, B, step=10, silent=900)
    begin(folder, C, "6_2", exit_code=1, step=0, reason="no [GPU] found")
    slurm.says("squeue", {"6_0": "RUNNING|None|n2", "6_1": "PENDING|BeginTime|", "6_3": "PENDING|Resources|"})
    slurm.says("sacct", {"6_2": "FAILED|1:0"})
    return folder


def test_states_and_progress(going: SweepFolder, slurm: Slurm) -> None:
    result, answer = read_statuses(going)
    assert list(result) == [SHARDS, B, D, A, C] and not answer.problem  # what is needed first, then by numbers
    assert [one.state for one in result.values()] == ["done", "queued", "queued", "running", "failed"]
    far = progress(going, result[A])
    to_go = pytest.approx(70 * 100 / 30, rel=0.05)  # 30 steps took 100 s
    assert far == {"step": 30, "steps": 100, "loss": 10 / 30, "images_per_second": 80.0, "seconds_to_go": to_go}
    assert progress(going, result[B])["seconds_to_go"] is None and progress(going, result[SHARDS])["step"] is None
    assert [call.split()[0] for call in slurm.calls] == ["squeue", "sacct"]
    assert [duration(seconds) for seconds in (98.6, 300, 7200, 200_000)] == ["99 s", "5 min", "2.0 h", "2.3 d"]


def test_the_table_has_counts_a_row_and_a_line_for_each_run(going: SweepFolder) -> None:
    lines = [line.rstrip() for line in printed(going)]
    assert lines[0] == "1 running, 2 queued, 1 done, 1 failed; 5 runs"
    assert lines[1].split("  ")[0] == "run" and lines[1].split()[-1] == "tries"
    row, details = (line for line in lines if line.startswith(A))
    assert row.split() == [A, "running", "30/100", "0.3333", "80", "4", "min", "1"] and details == f"{A}: job 6_0 on n2"
    assert f"{C}: job 6_2 on n1; no [GPU] found; its job ended as FAILED (exit code 1:0)" in lines


LONG = "experiment_dira_moco-lr0.03-size224-batch256-weight_decay0.0001-seed12-0a1b2c3d"
REASON = f"{'a long reason ' * 9}with /a/path/{'x' * 90}/of/one/word"


def test_nothing_is_cut_at_a_narrow_width(going: SweepFolder, slurm: Slurm) -> None:
    """Job, state, node and reason of every run are there in full, however a line is folded."""
    going.add(Run("pretrain", LONG, "pretrain", [], f"pretrain/{LONG}/output"))
    going.submitted({f"pretrain/{LONG}": "1234567_0"})
    begin(going, f"pretrain/{LONG}", "1234567_0", "gpu-a100-017", exit_code=1, step=0, reason=REASON)
    lines = printed(SweepFolder(going.path), width=60)
    assert max(map(len, lines)) <= 60 and "…" not in "".join(lines)
    together, starts = "".join("".join(lines).split()), "".join(line.split(" ")[0] for line in lines)
    for run_id, one in read_statuses(SweepFolder(going.path))[0].items():
        assert run_id in starts and all("".join(text.split()) in together for text in (one.reason, one.job, one.nodes))
        assert any(one.state in line.split() for line in lines)


def test_json_has_every_run_and_the_counts(going: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.main(["status", f"folder={going.path}", "json=true"]) == 1  # one has failed
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert not captured.err and content["problem"] == "" and content["used"] is None
    counts = {state: count for state, count in content["counts"].items() if count}
    assert counts == {"running": 1, "queued": 2, "done": 1, "failed": 1}
    runs = {f"{one['phase']}/{one['name']}": one for one in content["runs"]}
    assert list(runs) == [SHARDS, B, D, A, C]
    assert {key: runs[A][key] for key in ("state", "reason", "job", "try", "node", "step", "steps", "folder")} == {
        "state": "running", "reason": "", "job": "6_0", "try": 1, "node": "n2", "step": 30, "steps": 100,
        "folder": str(going.path / A),
    }  # fmt: skip
    assert runs[C]["state"] == "failed" and runs[C]["reason"].startswith("no [GPU] found; its job ended as FAILED")
    assert (runs[D]["try"], runs[D]["node"], runs[D]["step"]) == (None, None, None)


def test_no_slurm_is_reported_above_what_the_records_know(
    going: SweepFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "squeue is not installed here" in printed(going)[1]
    states = [one.state for one in read_statuses(going)[0].values()]
    assert states == ["done", "interrupted", "queued", "running", "failed"]


def test_a_run_whose_node_died_unseen_is_lost_once_its_lease_is_silent(tmp_path: Path, slurm: Slurm) -> None:
    """A lease from before the try says nothing about it."""
    folder = made_up_sweep(tmp_path / "sweep", 3)
    for run_id, job, seconds, silent in ((A, "6_0", 1000, 5), (B, "6_1", 1000, 300), (C, "6_2", 100, 300)):
        begin(folder, run_id, job, seconds=seconds)
        train(folder, run_id, step=5, silent=silent)
    slurm.says("squeue", {"6_2": "RUNNING|None|n2"})  # neither squeue nor sacct know the other jobs
    result = read_statuses(folder)[0]
    assert (result[A].state, result[B].state, result[C].reason) == ("running", "lost", "")


def test_processes_of_this_machine_are_looked_at(tmp_path: Path) -> None:
    folder, host = SweepFolder(tmp_path), socket.gethostname()
    for name in ("alive", "gone", "reused", "elsewhere"):
        folder.add(Run("shards", name, "shard", [], f"shards/{name}/output"))
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name, job, seconds, where in (
        ("alive", os.getpid(), 0, host),
        ("gone", ended.pid, 0, host),
        ("reused", os.getpid(), 1e6, host),  # by this process
        ("elsewhere", os.getpid(), 0, "another"),
    ):
        begin(folder, f"shards/{name}", str(job), where, seconds, cluster="local")
    result = {run_id.removeprefix("shards/"): one.state for run_id, one in read_statuses(folder)[0].items()}
    assert result == {"alive": "running", "gone": "lost", "reused": "lost", "elsewhere": "running"}


def test_gpu_hours_end_the_status_only_when_nothing_is_at_work(going: SweepFolder, slurm: Slurm) -> None:
    assert "hours" not in "".join(printed(going))
    slurm.says("squeue")
    slurm.says("usage", {"6_0": "3600|gres/gpu=2", "6_2": "1800|gres/gpu=1"})
    for run_id in (A, D):
        begin(going, run_id, "6_0", exit_code=0)
    assert printed(SweepFolder(going.path))[-1].strip() == "2.50 GPU-hours"


def test_a_status_imports_no_torch() -> None:
    ask = "import sys, dira_scale.sweep.subcommands, dira_scale.sweep.results"
    done = subprocess.run(
        [sys.executable, "-c", f"{ask}; print('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.stdout == "False\n", done.stderr


def test_a_sweep_that_is_none_is_answered_with_those_that_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/sweeps/mine").mkdir(parents=True)
    (tmp_path / "out/sweeps/mine/sweep.yaml").touch()
    with pytest.raises(UserError, match=r"^sweep=mina: no sweep was started there; did you mean 'mine'\?"):
        _ = SweepFolder(Path("out/sweeps/mina")).runs
    with pytest.raises(UserError, match=r"^folder=.*/elsewhere: no sweep was started there; started: none"):
        _ = SweepFolder(Path("elsewhere")).runs
