"""slurm/dev-cluster.sh for tests: one SLURM for this process's (tests/tiers.py gives them to one); a lock beside its
folder keeps another process waiting."""

import fcntl
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

SCRIPT = Path(__file__).parents[1] / "slurm" / "dev-cluster.sh"
NAME = "dira-slurm-" + hashlib.sha256(bytes(SCRIPT) + SCRIPT.read_bytes()).hexdigest()[:8]
NODES = 4
SECONDS = 90  # bound on a call of the script
TURN = 600  # bound on the wait for another process's tests
PORTS = range(30_100, 32_700, 10)  # below Linux's outgoing ports, above those that runs meet at


@dataclass(frozen=True)
class DevCluster:
    """A running SLURM with nodes n1 to n4; ``environment`` has SLURM_CONF."""

    folder: Path = Path(tempfile.gettempdir()) / NAME
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, seconds: float = 30) -> str:
        """Output of one of SLURM's commands, which must succeed."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def up(self) -> None:
        """Start the cluster, or those of its daemons that are not there."""
        if self.folder.is_dir() and not (self.folder / "env").exists():  # a start that was killed before any daemon's
            shutil.rmtree(self.folder)
        self.call("up", SLURM_DEV_PORT=str(_free_port()))

    def kill(self, daemon: str, by: signal.Signals = signal.SIGKILL) -> None:
        """End ``slurmctld``, or ``slurmd-n2`` while its jobs run on. A controller saves its jobs some seconds after it
        took them on, and when it ends by SIGTERM."""
        process = psutil.Process(int((self.folder / "pids" / daemon).read_text().split()[0]))
        process.send_signal(by)
        deadline = time.monotonic() + SECONDS
        with suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline, f"{daemon} outlives {by.name}"
                time.sleep(0.05)

    def calm(self) -> None:
        """Cancel all jobs and wait for their end."""
        deadline = time.monotonic() + SECONDS
        while jobs := self.run("squeue", "--noheader", "--format=%A").split():
            assert time.monotonic() < deadline, f"jobs {jobs} do not end"
            self.run("scancel", *sorted(set(jobs)))
            time.sleep(0.2)

    def call(self, command: str, **variables: str) -> None:
        """Have the script do ``up`` or ``down``."""
        given = {"SLURM_DEV_FOLDER": str(self.folder), "SLURM_DEV_NODES": str(NODES)} | variables
        done = subprocess.run(
            [SCRIPT, command], env=os.environ | given, capture_output=True, text=True, timeout=SECONDS
        )
        assert done.returncode == 0, f"{SCRIPT} {command}: {done.stdout}{done.stderr}"


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    if os.geteuid() != 0:
        return "SLURM's daemons need root"
    lacking = [p for p in ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd") if not shutil.which(p)]
    packages = "slurmctld slurmd slurm-client munge slurmdbd mariadb-server"
    return f"{', '.join(lacking)} not installed (apt-get install --no-install-recommends {packages})" * bool(lacking)


@contextmanager
def raised() -> Iterator[DevCluster]:
    """The cluster, of which a process that was killed may have left daemons and jobs; in the end it is taken down."""
    cluster = DevCluster()
    cluster.environment["SLURM_CONF"] = str(cluster.folder / "etc/slurm.conf")
    with cluster.folder.with_suffix(".lock").open("w") as lock:
        deadline = time.monotonic() + TURN
        while not _taken(lock):
            assert time.monotonic() < deadline, f"another process uses {cluster.folder} for more than {TURN} s"
            time.sleep(0.1)
        cluster.up()
        try:
            cluster.calm()
            yield cluster
        finally:
            cluster.call("down")


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free_port() -> int:
    """The first of the ports of a cluster that is still to be made."""

    def free(port: int) -> bool:
        with closing(socket.socket()) as item:
            return item.connect_ex(("127.0.0.1", port)) != 0

    first = int(NAME[-8:], 16) % len(PORTS)
    return next(port for port in [*PORTS[first:], *PORTS[:first]] if all(map(free, range(port, port + 2 + NODES))))
