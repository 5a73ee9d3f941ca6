"""Jobs: their tries, signals and requeues, on this machine and with an scontrol that a test wants."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import submitit
from harness import add_command

from dira_scale.command import Command
from dira_scale.sweep import queue
from dira_scale.sweep.job import Job, _stopped, command, start
from dira_scale.sweep.records import Launch, Run, SweepFolder

FOLDER = Path(__file__).parent / "commands"
SECONDS = 60


@pytest.fixture
def sweep(tmp_path: Path) -> SweepFolder:
    return SweepFolder(tmp_path / "sweep")


def counting(sweep: SweepFolder, name: str, *words: str, **rest: Any) -> Run:
    output = f"count/{name}/output"
    run = Run("count", name, "counting", [f"run={sweep.path / output}", *words], output, **rest)
    sweep.add(run)
    return run


def submit(sweep: SweepFolder, run: Run, limit: int = 3) -> subprocess.Popen[bytes]:
    path = f"{FOLDER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    words = [sys.executable, "-m", "dira_scale.sweep.job", str(sweep.path), run.id, str(limit)]
    return start(words, os.environ | {"PYTHONPATH": path})


def wait(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_jobs_of_this_machine_end_are_tried_again_and_wait_for_what_they_need(sweep: SweepFolder) -> None:
    good = counting(sweep, "good", "steps=3")
    failing = counting(sweep, "failing", "steps=9", "fail_at=5", "code=1")
    bad = counting(sweep, "bad", "steps=9", "fail_at=1", "code=2")
    blocked = counting(sweep, "blocked", "steps=3", needs=["count/bad"])
    cancelled = counting(sweep, "cancelled", "steps=3")
    sweep.cancel(cancelled.id)
    killed = counting(sweep, "killed", "steps=9", "fail_at=6", "code=-9")
    jobs = [submit(sweep, run, limit=2) for run in (good, failing, bad, blocked, cancelled, killed)]
    for job in jobs:
        job.wait(SECONDS)
    (attempt,) = sweep.tries(good.id)
    assert (attempt.cluster, attempt.exit_code, attempt.step, attempt.reason) == ("local", 0, 3, "")
    assert [(attempt.exit_code, attempt.step, attempt.reason) for attempt in sweep.tries(failing.id)] == [
        (1, 4, "no step 5")
    ] * 3
    assert [(attempt.exit_code, attempt.reason) for attempt in sweep.tries(bad.id)] == [(2, "no step 1")]
    (attempt,) = sweep.tries(blocked.id)
    assert attempt.ended and (attempt.exit_code, attempt.reason) == (None, "blocked: count/bad not done")
    assert sweep.tries(cancelled.id) == []
    why = "killed by SIGKILL at step 5: often memory (raise cluster.memory)"
    assert [(attempt.exit_code, attempt.reason) for attempt in sweep.tries(killed.id)] == [(-9, why)] * 3
    submit(sweep, good).wait(SECONDS)
    assert len(sweep.tries(good.id)) == 1  # it is done


@pytest.mark.parametrize(("cluster", "launcher"), [("slurm", False), ("local", True)])
def test_several_processes_are_tasks_of_slurm_or_have_one_launcher(cluster: str, launcher: bool) -> None:
    run = Run("p", "r", "pretrain", ["run=out"], "out", launch=Launch(1, 4))
    words = command(run, SimpleNamespace(cluster=cluster))  # type: ignore[arg-type]
    assert words[-3:] == ["-m", "dira_scale.pretrain", "run=out"]
    assert ({"--standalone", "--nproc_per_node=4"} < {*words}) == launcher == (len(words) > 4)


def test_a_signal_reaches_the_command_and_a_killed_job_takes_it_along(sweep: SweepFolder) -> None:
    run = counting(sweep, "run", "steps=900", "pause=0.02")
    job = submit(sweep, run)
    wait(lambda: sweep.status(run).get("step", 0) > 2)
    job.send_signal(signal.SIGUSR2)
    job.wait(SECONDS)
    (attempt,) = sweep.tries(run.id)
    assert (attempt.exit_code, attempt.step) == (75, sweep.status(run)["step"])

    job = submit(sweep, run)
    wait(lambda: len(sweep.tries(run.id)) == 2 and sweep.status(run)["step"] > (attempt.step or 0))
    job.kill()
    wait(lambda: sweep.status(run)["state"] == "interrupted")
    assert sweep.tries(run.id)[1].ended is None


def test_a_command_that_does_not_handle_signals_is_interrupted_too(sweep: SweepFolder) -> None:
    run = Run("wait", "run", "sleeping", [], "wait/run/output")
    sweep.add(run)
    job = submit(sweep, run)
    wait(lambda: "asleep" in (sweep.log(run.id, 0).read_text() if sweep.log(run.id, 0).exists() else ""))
    (child,) = psutil.Process(job.pid).children()
    child.send_signal(signal.SIGUSR2)  # as SLURM does: to every process
    job.send_signal(signal.SIGUSR2)
    wait(lambda: sweep.tries(run.id)[0].ended)
    (attempt,) = sweep.tries(run.id)
    assert (attempt.exit_code, attempt.reason) == (75, "asleep")


def test_a_try_begins_at_the_step_that_it_resumes_from(sweep: SweepFolder) -> None:
    """With a checkpoint every 4 steps; it ends at 6, then at 7, which is headway though the first one was there."""
    run = counting(sweep, "run", "steps=9", "every=4", "fail_at=7", "code=1")
    submit(sweep, run, limit=2).wait(SECONDS)
    assert [(attempt.step_before, attempt.step) for attempt in sweep.tries(run.id)][:2] == [(None, 6), (4, 6)]


def test_a_job_does_not_count_the_steps_of_another_that_runs_the_same(sweep: SweepFolder) -> None:
    """The second one takes the run over; the first one, which has to stop, made none of the steps that follow."""
    run = counting(sweep, "run", "steps=900", "pause=0.02")
    first = submit(sweep, run, limit=1)
    wait(lambda: sweep.status(run).get("step", 0) > 2)
    second = submit(sweep, run)
    first.wait(SECONDS)
    wait(lambda: sweep.status(run)["step"] > 20)
    second.send_signal(signal.SIGUSR2)
    second.wait(SECONDS)
    attempt, two, *_ = sweep.tries(run.id)  # a third one may have begun, where this process was slow
    assert attempt.reason.endswith("was taken over") and attempt.step is None
    assert two.exit_code == 75 and 20 < two.step <= sweep.status(run)["step"]


UNREACHED = 'echo "Unable to contact slurm controller" >&2; exit 1'
CONTROLLER = """#!/bin/sh
echo "$@" >>{folder}/calls
case "$1" in
show) echo "JobId=7 JobState=RUNNING Requeue=1 Restarts={restarts} PreemptTime={preempted}" ;;
requeue) [ -e {folder}/back ] || {{ touch {folder}/back; {away}; }}
         [ {allowed} = yes ] || {{ echo "Requested operation is presently disabled" >&2; exit 1; }} ;;
esac
"""
Controller = Callable[..., Path]


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    """Puts an scontrol in place that answers so, but not at first; returns the file with its calls."""

    def put(restarts: int = 0, preempted: str = "None", allowed: str = "yes", away: str = UNREACHED) -> Path:
        file = tmp_path / "scontrol"
        values = {"folder": tmp_path, "restarts": restarts, "preempted": preempted, "allowed": allowed, "away": away}
        file.write_text(CONTROLLER.format(**values))
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "calls"

    return put


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is task 3 of SLURM's array 5, whose signals it leaves to pytest afterwards."""
    given = {"SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "3"}
    for name, value in (given | {"SLURM_JOB_NODELIST": "n[1-2]"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    add_command(monkeypatch, Command("counting", ""))
    monkeypatch.setattr("dira_scale.sweep.job.SIGNALS", ())


SHOW, REQUEUE = "show job --oneliner 5_3", "requeue 5_3"
KILLED = "killed by SIGKILL at step 4: often memory (raise cluster.memory)"


def test_a_requeued_job_leaves_out_a_silent_node_beside_those_that_its_user_has(controller: Controller) -> None:
    log = controller(preempted="None ExcNodeList=n7", away=":")
    queue.requeue(SimpleNamespace(job_id="5_3"), ["n2"])  # type: ignore[arg-type]
    assert log.read_text().splitlines() == [SHOW, REQUEUE, "update JobId=5_3 ExcNodeList=n7,n2"]


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    ("answers", "code", "exit_code", "reason", "calls"),
    [
        ({"away": UNREACHED}, 1, 1, "no step 5", [SHOW, REQUEUE, REQUEUE]),
        ({"away": "kill -TERM $$"}, 1, 1, "no step 5", [SHOW, REQUEUE, REQUEUE]),  # by the requeue's own signal
        (
            {"allowed": "no"},
            -9,
            137,  # as a shell would
            f"{KILLED}; not requeued: scontrol failed: Requested operation is presently disabled",
            [SHOW, REQUEUE, REQUEUE],
        ),
        # its second life is not to be ended
        ({"restarts": 1}, 1, 1, "no step 5; not requeued: SLURM has restarted the job", [SHOW]),
    ],
    ids=["unreached", "ended", "refused", "restarted"],
)
def test_a_failed_job_is_requeued_once_the_controller_is_back_or_says_why_not(
    sweep: SweepFolder,
    controller: Controller,
    answers: dict[str, Any],
    code: int,
    exit_code: int,
    reason: str,
    calls: list[str],
) -> None:
    log = controller(**answers)
    run = counting(sweep, "run", "steps=9", "fail_at=5", f"code={code}")
    sweep.submitted({run.id: "5_3"})
    with pytest.raises(SystemExit) as error:
        Job(str(sweep.path), run.id)()
    attempt = sweep.tries(run.id)[-1]
    assert (error.value.code, attempt.job, attempt.nodes) == (exit_code, "5_3", ["n1", "n2"])
    assert (attempt.reason, log.read_text().splitlines()) == (reason, calls)


@pytest.mark.usefixtures("task")
def test_a_job_whose_submission_is_not_recorded_starts_nothing(
    sweep: SweepFolder, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sbatch's answer was lost: its runs are submitted again."""
    monkeypatch.setattr("dira_scale.sweep.job.RECORDED", 0)
    log, run = controller(), counting(sweep, "run", "steps=3")
    sweep.submitted({run.id: "4_3"})
    Job(str(sweep.path), run.id)()
    assert sweep.tries(run.id) == [] and not log.exists()
    sweep.submitted({run.id: "5_3"})
    Job(str(sweep.path), run.id)()
    assert [(attempt.job, attempt.exit_code) for attempt in sweep.tries(run.id)] == [("5_3", 0)]


@pytest.mark.usefixtures("task")
@pytest.mark.parametrize(
    ("received", "since", "stopped"),
    [
        ([], "None", ""),
        ([signal.SIGUSR2, signal.SIGTERM], "None", "limit"),
        ([signal.SIGTERM], "None", "ended"),
        ([signal.SIGTERM], "2026-11-22T08:16:02", "preempted"),
    ],
)
def test_sigterm_in_a_preemptions_grace_time_is_told_from_a_cancel(
    controller: Controller, received: list[int], since: str, stopped: str
) -> None:
    """SLURM requeues only those that it has to kill."""
    controller(preempted=since)
    assert _stopped(submitit.JobEnvironment(), received, resumes=False) == stopped
