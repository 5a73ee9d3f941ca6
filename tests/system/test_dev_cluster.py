"""slurm/dev-cluster.sh raises a SLURM that counts, accounts and survives the loss of its daemons."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from dev_cluster import SCRIPT, DevCluster

WORK = """#!/bin/bash
echo "$(hostname) $CUDA_VISIBLE_DEVICES"
getent hosts n1 n4 | cut -d' ' -f1 | uniq
srun hostname | sort
"""


@pytest.mark.system
def test_a_job_runs_on_nodes_of_its_own_and_is_accounted_for(dev_cluster: DevCluster, tmp_path: Path) -> None:
    (tmp_path / "work.sh").write_text(WORK)
    requested = ["--nodes=2", "--ntasks=2", "--gres=gpu:2", "--account=dira", f"--output={tmp_path / 'printed'}"]
    job = dev_cluster.run("sbatch", "--parsable", "--wait", *requested, str(tmp_path / "work.sh")).strip()
    first, address, *both = (tmp_path / "printed").read_text().splitlines()
    assert both == sorted(set(both)) and len(both) == 2  # two host names
    assert first == f"{both[0]} 0,1" and both[0].startswith("n") and not address.startswith("127.")
    accounted = ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={job}", "--format=state,account"]
    deadline = time.monotonic() + 30
    while (printed := dev_cluster.run(*accounted).strip()) != "COMPLETED|dira":
        assert time.monotonic() < deadline, f"sacct says {printed!r}"
        time.sleep(0.2)


@pytest.mark.system
def test_daemons_that_were_killed_come_back_and_a_node_without_power_loses_its_job(
    own_dev_cluster: DevCluster, tmp_path: Path
) -> None:
    cluster, began = own_dev_cluster, tmp_path / "began"
    cluster.run("sbatch", "--nodelist=n2", f"--output={os.devnull}", f"--wrap=echo $$ > {began}; sleep 600")
    _until(lambda: began.is_file() and began.read_text())
    cluster.power_off("n2")
    _until(lambda: not Path(f"/proc/{began.read_text().strip()}/exe").exists())
    cluster.kill("slurmctld")
    status = [SCRIPT, "status"], os.environ | {"SLURM_DEV_FOLDER": str(cluster.folder)}
    printed = subprocess.run(status[0], env=status[1], timeout=60, capture_output=True, text=True)
    assert (
        printed.returncode == 1 and "slurmctld has ended" in printed.stdout and "slurmd-n2 has ended" in printed.stdout
    )
    cluster.up()
    assert cluster.run("sinfo", "--noheader", "--partition=main", "--format=%D").split() == ["4"]
    assert subprocess.run(status[0], env=status[1], timeout=60, capture_output=True).returncode == 0


def test_it_says_what_is_missing_before_it_starts_anything(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "id").symlink_to(str(shutil.which("id")))
    given = {"PATH": str(tmp_path / "bin"), "SLURM_DEV_FOLDER": str(tmp_path / "cluster")}
    printed = subprocess.run(["/bin/bash", SCRIPT, "up"], env=given, capture_output=True, text=True, timeout=30)
    assert printed.returncode == 2 and not (tmp_path / "cluster").exists()
    packages = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server"
    lacking = "run this as root" if os.geteuid() else f"apt-get install --no-install-recommends {packages}"
    assert lacking in printed.stderr


def _until(done: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, "not within 60 s"
        time.sleep(0.05)
