"""Arrays that SLURM has taken though sbatch's answer never came, with stand-ins for its commands."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dira_scale.errors import UserError
from dira_scale.sweep import unanswered
from dira_scale.sweep.config import Cluster, Phase, Sweep, SweepConfig
from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.slurm import submit
from dira_scale.sweep.status import certain, read_statuses
from dira_scale.sweep.subcommands import cancel_runs

ID = "a/x"
COMMANDS = {
    "sbatch": """{takes} && cp "$1" {taken}/$(ls {taken} | wc -l); {answer}""",
    "squeue": """case "$*" in
*%k*) for i in $(ls {taken}); do
    echo "$((100 + i))|$(sed -n "s/^#SBATCH --comment=//p" {taken}/$i | tr -d "'")"
  done ;;
*) for i in $(ls {taken}); do echo "$((100 + i))_0|PENDING|Priority|"; done ;;
esac""",
    "scancel": "echo $* >> {calls}",
    "scontrol": "echo 'MaxArraySize = 1001'",
    "sinfo": "echo 'main*|infinite'",
    "srun": "",
    "sacct": "",
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a SLURM on the path that takes what sbatch is given, or not, and answers so."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def make(takes: bool, answer: str) -> None:
        for name in ("bin", "taken"):
            (tmp_path / name).mkdir(exist_ok=True)
        values = {
            "takes": str(takes).lower(),
            "answer": answer,
            "taken": tmp_path / "taken",
            "calls": tmp_path / "calls",
        }
        for name, text in COMMANDS.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text.format(**values)}\n")
            (tmp_path / "bin" / name).chmod(0o755)

    return make


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    folder = SweepFolder(tmp_path / "sweep")
    folder.add(run())
    return folder


def run() -> Run:
    return Run("a", "x", "pretrain", [], "a/x/output")


def config(**profile: Any) -> SweepConfig:
    cluster = Cluster(executor="slurm", hours=2.0, signal_delay=60, cpus_per_task=4, tries=5, **profile)
    return SweepConfig("x", False, False, Sweep("s", {"a": Phase(command="pretrain")}), cluster)


TIMED_OUT = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'
TAKEN = 'echo "Submitted batch job 100"'


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize("answer", [TIMED_OUT, TAKEN])
def test_what_slurm_has_taken_is_found_by_the_next_look(
    sweep: SweepFolder, tools: Callable[..., None], answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch lost its reply; it was interrupted before the reply was read."""
    tools(takes=True, answer=answer)
    if answer == TAKEN:
        monkeypatch.setattr("submitit.slurm.slurm.SlurmExecutor._get_job_id_from_submission_command", interrupted)
    with pytest.raises(UserError if answer == TIMED_OUT else KeyboardInterrupt):
        submit(sweep, config(sbatch={"comment": "project 7"}), [run()], {})
    assert sweep.submissions == []
    result = certain(SweepFolder(sweep.path))[ID]  # as `sweep` and `retry` look
    assert (result.state, result.job) == ("queued", "100_0")
    (recorded,) = sweep.submissions
    assert (recorded.job, recorded.runs) == ("100", [ID]) and sweep.unanswered == []
    assert (sweep.path / "jobs" / "100_0_submitted.pkl").is_file()  # where the job looks for its call
    assert "--comment='project 7 " in (sweep.path.parent / "taken" / "0").read_text()


def test_such_an_array_is_cancelled(sweep: SweepFolder, tools: Callable[..., None]) -> None:
    tools(takes=True, answer=TIMED_OUT)
    with pytest.raises(UserError):
        submit(sweep, config(), [run()], {})
    assert cancel_runs(SweepFolder(sweep.path), []) == [ID]
    assert (sweep.path.parent / "calls").read_text().split() == ["--quiet", "100_[0]"]


def test_nothing_is_started_until_slurm_can_no_longer_take_it(
    sweep: SweepFolder, tools: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools(takes=False, answer=TIMED_OUT)
    with pytest.raises(UserError):
        submit(sweep, config(), [run()], {})
    with pytest.raises(UserError, match=r"SLURM may still accept these jobs; .* nothing was started"):
        certain(SweepFolder(sweep.path))
    assert read_statuses(SweepFolder(sweep.path))[0][ID].state == "missing"
    monkeypatch.setattr(unanswered, "SETTLED", 0)
    assert certain(SweepFolder(sweep.path))[ID].state == "missing" and sweep.unanswered == []


def test_a_refusal_is_an_answer(sweep: SweepFolder, tools: Callable[..., None]) -> None:
    tools(takes=False, answer='echo "sbatch: error: Invalid account" >&2; exit 1')
    with pytest.raises(UserError, match="account"):
        submit(sweep, config(), [run()], {})
    assert sweep.unanswered == [] and certain(SweepFolder(sweep.path))[ID].state == "missing"
