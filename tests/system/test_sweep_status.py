"""The status of a sweep from a real SLURM: states as jobs go on, a controller that is away, a cancel."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from dev_cluster import SCRIPT, DevCluster

from dira_scale.sweep.records import Run, SweepFolder
from dira_scale.sweep.status import RunStatus, read_statuses
from dira_scale.sweep.subcommands import cancel_runs

NAMES = ("begins", "waits", "fails", "never")
SECONDS = 60


@pytest.mark.system
def test_states_of_real_jobs_outlive_the_controller(dev_cluster: DevCluster, tmp_path: Path) -> None:
    """Array tasks that run, wait for their turn, and fail before a try; a job longer than its partition allows."""
    folder = SweepFolder(tmp_path / "sweep")
    for name in NAMES:
        folder.add(Run("shard", name, "shard", [], f"shard/{name}/output"))
    work = 'if [ "$SLURM_ARRAY_TASK_ID" = 2 ]; then exit 1; fi; sleep 600'
    quiet = ["sbatch", "--parsable", "--output=/dev/null"]
    main = dev_cluster.run(*quiet, "--array=0,1,2", "--exclusive", "--nodelist=n1", f"--wrap={work}").strip()
    never = dev_cluster.run(*quiet, "--array=0", "--partition=short", "--time=60", "--wrap=true").strip()
    folder.submitted({f"shard/{name}": f"{main}_{task}" for task, name in enumerate(NAMES[:3])})
    folder.submitted({"shard/never": f"{never}_0"})

    def until(of: str = "never", why: str = "", **expected: str) -> Mapping[str, RunStatus]:
        """``why``: the reason for the state ``of`` one; that a partition does not allow it, the controller says when it
        next schedules, and an exit code once it has told the accounting."""
        deadline = time.monotonic() + SECONDS
        while True:
            result, _ = read_statuses(SweepFolder(folder.path))
            states = {run_id.partition("/")[2]: item.state for run_id, item in result.items()}
            if states == expected and why in result[f"shard/{of}"].reason:
                return result
            assert time.monotonic() < deadline, {run_id: (item.state, item.reason) for run_id, item in result.items()}
            time.sleep(0.2)

    queued = {"waits": "queued", "fails": "queued", "never": "queued"}
    assert until("never", "PartitionTimeLimit", begins="running", **queued)["shard/begins"].nodes == "n1"
    dev_cluster.kill("slurmctld", signal.SIGTERM)
    result, answer = read_statuses(SweepFolder(folder.path))
    assert "squeue failed" in answer.problem and {item.state for item in result.values()} == {"queued"}
    dev_cluster.up()
    until(begins="running", **queued)
    cancel_runs(folder, ["begins", "waits", "never"])
    why = "is FAILED (exit code 1:0) before the run began"
    until("fails", why, begins="cancelled", waits="cancelled", fails="failed", never="cancelled")
    assert dev_cluster.run("squeue", "--noheader").split() == []


def test_the_dev_cluster_says_what_is_missing_before_it_starts_anything(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "id").symlink_to(str(shutil.which("id")))
    given = {"PATH": str(tmp_path / "bin"), "SLURM_DEV_FOLDER": str(tmp_path / "cluster")}
    printed = subprocess.run(["/bin/bash", SCRIPT, "up"], env=given, capture_output=True, text=True, timeout=30)
    assert printed.returncode == 2 and not (tmp_path / "cluster").exists()
    packages = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server"
    lacking = "run this as root" if os.geteuid() else f"apt-get install --no-install-recommends {packages}"
    assert lacking in printed.stderr
