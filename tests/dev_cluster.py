"""slurm/dev-cluster.sh for tests: one SLURM for all that run at once, shared or for one test alone.

Processes of pytest-xdist find it by its folder's name. A lock beside the folder tells who uses it: many at once, or one
test that ends daemons. Whoever is the last to leave cancels the jobs that are left.
"""

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

import psutil

SCRIPT = Path(__file__).parents[1] / "slurm" / "dev-cluster.sh"
NAME = "dira-slurm-" + hashlib.sha256(bytes(SCRIPT) + SCRIPT.read_bytes()).hexdigest()[:8]
NODES = 4
SECONDS = 90  # bound on a call of the script
TURN = 600  # bound on the wait for others' tests
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
        self._call("up", SLURM_DEV_PORT=str(_free_port()))

    def down(self) -> None:
        """End it and whatever runs on it."""
        self._call("down")

    def kill(self, daemon: str, by: signal.Signals = signal.SIGKILL) -> None:
        """End ``slurmctld``, or ``slurmd-n2`` while its jobs run on. A controller saves its jobs some seconds after it
        took them on, and when it ends by SIGTERM."""
        process = psutil.Process(self._pid(daemon))
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

    def _pid(self, daemon: str) -> int:
        return int((self.folder / "pids" / daemon).read_text().split()[0])

    def _call(self, command: str, **variables: str) -> None:
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
def used(alone: bool) -> Iterator[DevCluster]:
    """The cluster, with all its daemons; ``alone``: while no other test uses it."""
    cluster = DevCluster()
    cluster.environment["SLURM_CONF"] = str(cluster.folder / "etc/slurm.conf")
    with _lock(cluster) as lock:
        deadline = time.monotonic() + TURN
        while not _taken(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
            assert time.monotonic() < deadline, f"other tests use {cluster.folder} for more than {TURN} s"
            time.sleep(0.1)
        cluster.up()
        yield cluster
        if alone:
            cluster.up()
        if _taken(lock, fcntl.LOCK_EX):
            cluster.calm()


def remove() -> None:
    """Take the cluster down, unless another process's test uses it."""
    cluster = DevCluster()
    with _lock(cluster) as lock:
        if _taken(lock, fcntl.LOCK_EX):
            cluster.down()


@contextmanager
def _lock(cluster: DevCluster) -> Iterator[int]:
    lock = os.open(cluster.folder.with_suffix(".lock"), os.O_CREAT | os.O_RDWR)
    try:
        yield lock
    finally:
        os.close(lock)


def _taken(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _free_port() -> int:
    """The first of the ports of a cluster that is still to be made."""
    first = int(NAME[-8:], 16) % len(PORTS)
    return next(port for port in [*PORTS[first:], *PORTS[:first]] if all(map(_free, range(port, port + 2 + NODES))))


def _free(port: int) -> bool:
    with closing(socket.socket()) as item:
        return item.connect_ex(("127.0.0.1", port)) != 0
