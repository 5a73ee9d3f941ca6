"""slurm/dev-cluster.sh where it cannot raise a SLURM; the tests of sweeps use it where it can."""

import os
import shutil
import subprocess
from pathlib import Path

from dev_cluster import SCRIPT


def test_it_says_what_is_missing_before_it_starts_anything(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "id").symlink_to(str(shutil.which("id")))
    given = {"PATH": str(tmp_path / "bin"), "SLURM_DEV_FOLDER": str(tmp_path / "cluster")}
    printed = subprocess.run(["/bin/bash", SCRIPT, "up"], env=given, capture_output=True, text=True, timeout=30)
    assert printed.returncode == 2 and not (tmp_path / "cluster").exists()
    packages = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server"
    lacking = "run this as root" if os.geteuid() else f"apt-get install --no-install-recommends {packages}"
    assert lacking in printed.stderr
