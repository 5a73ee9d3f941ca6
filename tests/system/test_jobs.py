"""What becomes of a sweep's jobs under a real SLURM: requeued, cancelled, at their time limit, on nodes that die."""

import os
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from dev_cluster import DevCluster
from harness import CALM, EACH, SECONDS, assert_equal_runs, finish, losses, pretrain, rows
from system.jobs import Jobs

from dira_scale import pretrain as command
from dira_scale.sweep.records import Launch, Run

COUNTED = Path(__file__).parents[1] / "sweep" / "counted"


@pytest.fixture
def jobs(dev_cluster: DevCluster, tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "sweep", dev_cluster.environment)


def lines(jobs: Jobs, run: Run) -> list[int]:
    return [int(line) for line in (jobs.sweep.output(run) / "steps").read_text().split()]


@pytest.mark.system
def test_what_fails_is_tried_again_until_it_has_failed_thrice_without_a_new_step(jobs: Jobs) -> None:
    """And bad input once."""
    failing = jobs.counting("failing", "steps=9", "fail_at=5", "code=1")
    bad = jobs.counting("bad", "steps=9", "fail_at=1", "code=2")
    ids = [jobs.submit(failing), jobs.submit(bad)]
    for job in ids:
        jobs.end(job)
    tries = jobs.tries(failing)
    assert [(each.exit_code, each.step, each.restart) for each in tries] == [(1, 4, i) for i in range(4)], (
        jobs.reported()
    )
    assert {each.reason for each in tries} == {"no step 5"}
    (only,) = jobs.tries(bad)
    assert (only.exit_code, only.reason) == (2, "no step 1")


@pytest.mark.torture
def test_a_cancelled_job_is_not_requeued(jobs: Jobs) -> None:
    run = jobs.counting("cancelled", "steps=900", "pause=0.05")
    job = jobs.submit(run)
    jobs.wait(lambda: jobs.step(run) > 3)
    jobs.sweep.cancel(run.id)
    jobs.client("scancel", "--signal=USR2", job)  # a cancel wins over what requeues
    jobs.end(job)
    (only,) = jobs.tries(run)
    assert only.exit_code == 75 and only.step == jobs.step(run) == len(lines(jobs, run)), jobs.reported()
    again = jobs.submit(run)
    jobs.end(again)
    assert len(jobs.tries(run)) == 1


@pytest.mark.torture
def test_scancel_alone_writes_a_checkpoint_and_ends(jobs: Jobs) -> None:
    run = jobs.counting("scancelled", "steps=900", "pause=0.05")
    job = jobs.submit(run)
    jobs.wait(lambda: jobs.step(run) > 3)
    jobs.client("scancel", job)
    jobs.wait(lambda: jobs.tries(run)[-1].ended)
    jobs.end(job)
    (only,) = jobs.tries(run)
    assert (only.exit_code, only.step) == (75, jobs.step(run)), jobs.reported()


@pytest.mark.torture
def test_a_time_limit_leads_to_a_checkpoint_and_on(jobs: Jobs) -> None:
    """SLURM sends the signal up to a minute early."""
    run = jobs.counting("limited", "steps=100", "pause=0.5")
    job = jobs.submit(run, time=1, signal_delay_s=20)
    jobs.end(job)
    first, *others = jobs.tries(run)
    assert first.exit_code == 75 and others[-1].exit_code == 0, jobs.reported()
    assert lines(jobs, run) == list(range(1, 101))


@pytest.mark.system
def test_one_run_by_one_key_goes_on_after_a_kill_and_a_time_limit(
    dev_cluster: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It only counts its steps. SLURM looks every 30 s for limits that come near, here in the last 50 s of a minute: by
    luck before the kill. While its job is there, the run is not submitted again."""
    monkeypatch.setenv("PYTHONPATH", f"{COUNTED}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")  # of the job
    output, hold = tmp_path / "run", tmp_path / "hold"
    words = ["experiment=small", "data.shards=s3://bucket/set", "model.encoder=test_resnet", f"run={output}", "steps=9"]
    words += ["cluster=slurm", f"cluster.hours={1 / 60}", "cluster.signal_delay=20", "cluster.cpus_per_task=1"]
    words += ["cluster.gpus_per_node=0", "cluster.plan=null"]
    hold.write_text("3")
    assert command.main(words) == 0
    jobs = Jobs(output / "slurm", dev_cluster.environment)
    ((run_id, (job,)),) = jobs.sweep.jobs.items()
    assert f"{output}: job {job} is submitted" in capsys.readouterr().out
    run = jobs.sweep.run(run_id)

    def codes() -> list[int | None]:
        return [each.exit_code for each in jobs.tries(run)]

    def killed() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            with suppress(psutil.NoSuchProcess):
                if f"run={output}" in (process.info["cmdline"] or []):
                    process.kill()
        return -9 in codes()

    jobs.wait(lambda: jobs.step(run) == 3)
    assert command.main(words) == 2 and f"job {job} has it, which is " in capsys.readouterr().err
    jobs.wait(killed)
    hold.write_text("6")
    jobs.wait(lambda: 75 in codes())
    hold.unlink()
    jobs.end(job)
    assert codes()[-1] == 0 and codes().count(-9) == 1 and jobs.sweep.jobs == {run_id: [job]}, jobs.reported()
    assert lines(jobs, run) == list(range(1, 10))
    assert command.main(words) == 0 and "done; nothing is submitted" in capsys.readouterr().out


@pytest.mark.torture
def test_a_preempted_job_goes_on_after_the_urgent_one(jobs: Jobs) -> None:
    run = jobs.counting("preempted", "steps=60", "pause=0.05")
    job = jobs.submit(run, nodelist="n1", exclusive=True)
    jobs.wait(lambda: jobs.step(run) > 3)
    jobs.client("sbatch", "-p", "urgent", "-w", "n1", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    jobs.end(job)
    assert [each.exit_code for each in jobs.tries(run)] == [75, 0], jobs.reported()
    assert lines(jobs, run) == list(range(1, 61))


def training(jobs: Jobs, shards: Path, name: str, *words: str, nodes: int = 1) -> Run:
    """DiRA on tiny images; on two nodes, two processes each."""
    output = f"train/{name}/output"
    command = pretrain(jobs.folder / output, shards, *EACH, *words)
    launch = Launch(nodes, 2 if nodes > 1 else 1)
    return Run("train", name, "pretrain", command[command.index("dira_scale.pretrain") + 1 :], output, launch=launch)


@pytest.mark.system
def test_a_job_whose_node_is_lost_goes_on_elsewhere_while_its_first_life_still_runs(
    dev_cluster: DevCluster, shards: Path, tmp_path: Path
) -> None:
    """Only the node's daemon is killed: the first life trains on until it sees that the second one has the lease."""
    jobs = Jobs(tmp_path / "sweep", dev_cluster.environment)
    run = training(jobs, shards, "lost", "epoch_factor=400", "checkpoint.every=5")
    job = jobs.submit(run)
    jobs.wait(lambda: jobs.step(run) > 5)
    dev_cluster.kill(f"slurmd-{jobs.node(job)}")
    jobs.wait(lambda: len(jobs.tries(run)) > 1)
    jobs.wait(lambda: jobs.tries(run)[0].ended)
    reached = jobs.step(run)
    jobs.wait(lambda: jobs.step(run) > reached)  # the second life trains
    dev_cluster.up()
    jobs.client("scancel", job)
    jobs.end(job)
    first, second = jobs.tries(run)
    assert first.exit_code == 1 and "taken over" in first.reason, jobs.reported()
    assert (second.job, second.restart, second.exit_code) == (job, 1, 75) and second.nodes != first.nodes
    steps = [row["step"] for row in rows(jobs.sweep.output(run))]
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] == second.step


@pytest.mark.system
def test_plain_srun_learns_the_same_and_a_script_that_forgets_it_is_reported(
    jobs: Jobs, unbroken_pair: Path, shards: Path, tmp_path: Path
) -> None:
    """Without a sweep: a user's own job script."""
    environment = os.environ | jobs.environment
    srun = ["srun", "--nodes=2", "--ntasks-per-node=1", *pretrain(tmp_path / "run", shards, *EACH)]
    done = subprocess.run(srun, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_equal_runs(tmp_path / "run", unbroken_pair)
    wrapped = f"--wrap={shlex.join(pretrain(tmp_path / 'other', shards))}"
    sbatch = ["sbatch", "--wait", "--ntasks=3", f"--output={tmp_path / 'printed'}", wrapped]
    assert subprocess.run(sbatch, env=environment, timeout=SECONDS, check=False).returncode == 2
    assert "this SLURM job has 3 tasks, and its script starts one process" in (tmp_path / "printed").read_text()


@pytest.mark.system
def test_two_tasks_on_each_of_two_nodes_learn_what_four_processes_of_one_machine_do(
    jobs: Jobs, shards: Path, tmp_path: Path
) -> None:
    """Bit for bit, and but for rounding what a single process does, in a step of each stage."""
    run = training(jobs, shards, "four", *CALM, nodes=2)
    job = jobs.submit(run)
    finish(pretrain(tmp_path / "four", shards, *EACH, *CALM, ranks=4))
    finish(pretrain(tmp_path / "one", shards, *EACH, *CALM))
    jobs.end(job)
    (only,) = jobs.tries(run)
    assert (only.exit_code, only.step, len(only.nodes)) == (0, 3, 2), jobs.reported()
    assert_equal_runs(jobs.sweep.output(run), tmp_path / "four")
    for ours, theirs in zip(losses(jobs.sweep.output(run)), losses(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)  # measured: 4e-4 in the third step


@pytest.mark.torture
def test_four_processes_on_two_nodes_are_preempted_and_go_on(jobs: Jobs, shards: Path, tmp_path: Path) -> None:
    """SLURM signals every process of the job, so launchers and commands too."""
    run = training(jobs, shards, "four", "epoch_factor=4", "checkpoint.every=10", nodes=2)
    job = jobs.submit(run)
    jobs.wait(lambda: jobs.step(run) > 2)
    jobs.client("scancel", "--signal=USR2", job)
    finish(pretrain(tmp_path / "four", shards, *EACH, "epoch_factor=4", "checkpoint.every=10", ranks=4))
    jobs.end(job)
    first, second = jobs.tries(run)
    assert (first.exit_code, second.exit_code, second.restart, second.step) == (75, 0, 1, 30), jobs.reported()
    assert_equal_runs(jobs.sweep.output(run), tmp_path / "four")
