"""A real SLURM over nodes of one machine: Debian's daemons in network namespaces, everything else in one folder."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from system.nodes import Node

TOOLS = ("slurmctld", "slurmd", "srun", "sbatch", "munged")
SECONDS = 60  # bound on every wait here
CONF = """
ClusterName=dira
SlurmctldHost={first}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_min_interval=0
KillWait=2
SlurmctldDebug=error
SlurmdDebug=error
ReturnToService=2
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """What there is not of SLURM; empty where there is all."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    return (
        f"{', '.join(lacking)} not installed (apt-get install slurmctld slurmd slurm-client munge)" if lacking else ""
    )


@contextmanager
def slurm(nodes: list[Node]) -> Iterator[dict[str, str]]:
    """The environment in which srun and sbatch work on ``nodes``; the daemons end with the nodes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "state").mkdir()
        lines = [f"NodeName={node.name} NodeAddr={node.address} CPUs=4 RealMemory=1000" for node in nodes]
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(first=nodes[0].name, folder=folder, nodes="\n".join(lines)))
        (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        environment = {"SLURM_CONF": str(conf)}
        try:
            _munged(folder / "munge", nodes[0])
            nodes[0].start(["slurmctld", "-D"], environment)
            for node in nodes:
                node.start(["slurmd", "-D", "-N", node.name], environment)
            deadline = time.monotonic() + SECONDS
            while _ask(nodes[0], environment).split() != ["idle"] * len(nodes):
                assert time.monotonic() < deadline, "the nodes of SLURM do not come up"
                time.sleep(0.5)
            yield environment
        finally:
            for node in nodes:
                node.kill()


def _munged(folder: Path, node: Node) -> None:
    """SLURM's authentication, with a key of its own; it wants its own user. By its socket all nodes reach it."""
    folder.mkdir()
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o400)
    for path in (folder, folder / "key"):
        shutil.chown(path, "munge", "munge")
    files = [
        f"--{what}={folder / what.split('-')[0]}"
        for what in ("key-file", "socket", "pid-file", "log-file", "seed-file")
    ]
    user = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
    node.start([*user, "munged", "--foreground", "--force", *files])


def _ask(node: Node, environment: dict[str, str]) -> str:
    asked = node.start(["sinfo", "-h", "-N", "-o", "%t"], environment)
    asked.wait(SECONDS)
    return asked.printed()
