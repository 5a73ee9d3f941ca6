"""Sweeps by the command on a real SLURM, while jobs are requeued, and daemons and the controlling process are killed.

The runs only count their steps (tests/sweep/counted); test_jobs.py has jobs that train.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dev_cluster import DevCluster
from forked import Forked, Started
from harness import finish, job
from system.jobs import SECONDS, Jobs

from dira_scale.sweep import main
from dira_scale.sweep.records import Run

COUNTED = Path(__file__).parents[1] / "sweep" / "counted"
QUICK = "import dira_scale.sweep.watch as w; w.LOOK = 0.5"
SWEEP = """
name: counted
phases:
  first: {command: pretrain, set: {experiment: small, data.shards: x}, grid: {steps: [40, 41, 42, 43]}}
  second: {command: pretrain, for_each: first, set: {experiment: small, data.shards: "{first}", steps: 30}, seeds: 2}
"""
RUNS, SECOND = 12, 30  # steps of a run of the second phase
PROFILE = ["cluster=slurm", "cluster.hours=0.1", "cluster.signal_delay=5", "cluster.cpus_per_task=8"]  # a node a run
PROFILE += ["cluster.gpus_per_node=0", "cluster.plan=null"]


@dataclass
class Counted(Jobs):
    """The sweep of 4 runs, and 2 more for each of them."""

    @property
    def words(self) -> list[str]:
        mine = self.folder.parent / "own"
        return [f"folder={self.folder}", "--config-dir", str(mine), "sweep=counted", *PROFILE]

    @property
    def runs(self) -> list[Run]:
        """The runs that are recorded."""
        files = self.folder.glob("*/*/run.json")
        return [self.sweep.run(str(file.parent.relative_to(self.folder))) for file in sorted(files)]

    def held(self, at: int, count: int) -> list[Run]:
        """So many runs of the first phase, once they have made ``at`` steps, to go on when they are released."""
        self.wait(lambda: len(self.runs) == RUNS)
        chosen = self.runs[:count]
        for run in chosen:
            (self.folder / run.id / "hold").write_text(str(at))
        self.wait(lambda: all(self.step(run) >= at for run in chosen))
        return chosen

    def release(self, run: Run) -> None:
        (self.folder / run.id / "hold").unlink()

    @contextmanager
    def controlling(self) -> Iterator[Forked | Started]:
        """A process that carries the sweep out."""
        with job([sys.executable, "-m", "dira_scale.sweep", *self.words], before=QUICK) as process:
            yield process

    def job(self, run: Run) -> str:
        """The job that the run is in, or was in last."""
        return self.tries(run)[-1].job

    def assert_complete(self) -> None:
        """Every run is done, with exactly its steps and each once, after those that it needs; all are in the results.

        The same command again starts nothing.
        """
        runs = self.runs
        assert len(runs) == RUNS
        for run in runs:
            steps = run.varied["first.steps"] if run.phase == "first" else SECOND
            lines = (self.sweep.output(run) / "steps").read_text().split()
            assert lines == [str(step) for step in range(1, steps + 1)], f"{run.id}: {lines}\n{self.reported()}"
            done = [item for item in self.tries(run) if item.exit_code == 0]
            assert len(done) == 1, self.reported()
            for need in run.needs:
                assert self.sweep.tries(need)[-1].ended <= self.tries(run)[0].began
        before = self.records()
        finish([sys.executable, "-m", "dira_scale.sweep", *self.words], before=QUICK)
        assert self.records() == before
        rows = pq.read_table(self.folder / "results.parquet").to_pylist()
        losses = {row["run"]: row["value"] for row in rows if row["metric"] == "di/val/loss"}
        assert losses == {run.id: 1 / (run.varied["first.steps"] if run.phase == "first" else SECOND) for run in runs}

    def records(self) -> object:
        """What has been submitted and tried."""
        return self.sweep.jobs, [self.tries(run) for run in self.runs]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sweep's folder, still to be made."""
    (tmp_path / "own" / "sweep").mkdir(parents=True)
    (tmp_path / "own" / "sweep" / "counted.yaml").write_text(SWEEP)
    monkeypatch.setenv("PYTHONPATH", f"{COUNTED}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return tmp_path / "sweep"


@pytest.fixture
def counted(dev_cluster: DevCluster, sweep: Path) -> Counted:
    return Counted(sweep, dev_cluster.environment)


@pytest.mark.system
def test_twelve_runs_on_four_nodes_with_a_requeue_and_a_lost_node(counted: Counted, dev_cluster: DevCluster) -> None:
    """The lost node's daemon is killed, its job lives on. Most of the time SLURM does not miss it: up to 40 s."""
    with counted.controlling() as process:
        requeued, lost = counted.held(at=10, count=2)
        counted.client("scontrol", "requeue", counted.job(requeued))
        counted.release(requeued)
        dev_cluster.kill(f"slurmd-{counted.tries(lost)[0].nodes[0]}")
        counted.wait(lambda: len(counted.tries(lost)) > 1 and counted.tries(lost)[0].ended)
        dev_cluster.up()
        counted.release(lost)
        assert process.wait(SECONDS) == 0, process.printed() + counted.reported()
    codes = {run.id: [item.exit_code for item in counted.tries(run)] for run in counted.runs}
    assert codes.pop(requeued.id) == [75, 0] and codes.pop(lost.id) == [1, 0], counted.reported()
    assert set(map(tuple, codes.values())) == {(0,)}
    first, second = counted.tries(lost)
    assert "taken over" in first.reason and first.job == second.job and first.nodes != second.nodes
    counted.assert_complete()


REFUSED = {
    "cluster.partition=nowhere": "sbatch: error: invalid partition specified: nowhere",
    "cluster.account=nobody": "sbatch: error: Batch job submission failed: Invalid account",
    "cluster.qos=few": "sbatch: error: QOSMaxSubmitJobPerUserLimit",
}


@pytest.mark.system
def test_what_slurm_refuses_is_one_line_and_nothing_is_submitted(
    dev_cluster: DevCluster, sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted = Counted(sweep, dev_cluster.environment)
    held = counted.client("sbatch", "--parsable", "--hold", "--qos=few", "--array=0-3", "--wrap=true").strip()

    def refused(words: str, path: str = os.environ["PATH"]) -> str:
        with monkeypatch.context() as changed:
            changed.setenv("PATH", path)
            assert main([*counted.words, *words.split()]) == 2
        assert counted.sweep.jobs == {}
        assert "counted/" not in counted.client("squeue", "--noheader", "--format=%j")
        return capsys.readouterr().err.splitlines()[-1]

    for words, message in REFUSED.items():
        assert message in refused(words)
    assert "there is no sbatch here: use a login node, or cluster=local" in refused("", path=str(sweep))
    counted.client("scancel", held)


@pytest.mark.torture
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_the_controller_is_killed_in_mid_sweep(counted: Counted, dev_cluster: DevCluster, by: signal.Signals) -> None:
    """One run ends while it is away. By SIGKILL it loses its last seconds, so not before it has saved these jobs."""
    with counted.controlling() as process:
        held = counted.held(at=10, count=2)
        counted.wait(lambda: saved(dev_cluster) > counted.tries(held[-1])[0].began)
        dev_cluster.kill("slurmctld", by)
        counted.release(held[0])
        counted.wait(lambda: counted.tries(held[0])[-1].ended and "still watching" in process.printed())
        dev_cluster.up()
        counted.release(held[1])
        assert process.wait(SECONDS) == 0, process.printed() + counted.reported()
    assert {len(counted.tries(run)) for run in counted.runs} == {1}, counted.reported()
    counted.assert_complete()


@pytest.mark.torture
def test_the_controlling_process_is_killed_and_started_again(counted: Counted) -> None:
    """While the first phase runs, and while the second one does."""
    with counted.controlling() as process:
        (held,) = counted.held(at=10, count=1)
        counted.wait(lambda: "submitted" in process.printed())
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
    submitted = counted.sweep.jobs
    assert submitted.keys() == {run.id for run in counted.runs}
    with counted.controlling() as process:
        counted.wait(lambda: "0 runs submitted, 12 were queued or running" in process.printed())
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
    counted.release(held)
    counted.wait(lambda: all(counted.tries(run) for run in counted.runs))
    with counted.controlling() as process:
        assert process.wait(SECONDS) == 0, process.printed() + counted.reported()
    assert counted.sweep.jobs == submitted and {len(counted.tries(run)) for run in counted.runs} == {1}
    counted.assert_complete()


def saved(cluster: DevCluster) -> float:
    """When the controller has last saved its jobs."""
    return (cluster.folder / "state" / "job_state").stat().st_mtime
