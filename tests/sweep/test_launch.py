"""What a job starts, on SLURM and on this machine. (Really started: tests/system/test_jobs.py.)"""

import sys
from types import SimpleNamespace

import pytest

from dira_scale.sweep.launch import command
from dira_scale.sweep.records import Launch, Run

COMMAND = ["-m", "dira_scale.pretrain", "run=out"]


def words(launch: Launch, cluster: str, node: int = 0) -> list[str]:
    job = SimpleNamespace(cluster=cluster, node=node, hostnames=["n3", "n4"])
    program, *rest = command(Run("p", "r", "pretrain", ["run=out"], "out", launch=launch), job)  # type: ignore[arg-type]
    assert program == sys.executable and rest[-3:] == COMMAND
    return rest[:-3]


@pytest.fixture(autouse=True)
def slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "25")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)


def test_one_process_and_tasks_of_slurm_are_the_command_itself() -> None:
    assert words(Launch(), "slurm") == words(Launch(), "local") == words(Launch(2, 4), "slurm") == []


def test_one_launcher_on_each_node_meets_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (words(Launch(2, 4, "torchrun"), "slurm", node) for node in (0, 1))
    assert {*first} ^ {*second} == {"--node_rank=0", "--node_rank=1"}
    assert {"--nnodes=2", "--nproc_per_node=4", "--master_addr=n3", "--max_restarts=3"} < {*first}
    (port,) = (word for word in first if word.startswith("--master_port="))
    assert 10_000 <= int(port.partition("=")[2]) < 30_000
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert port not in words(Launch(2, 4, "torchrun"), "slurm")


@pytest.mark.parametrize("launcher", ["tasks", "torchrun"])
def test_several_processes_of_this_machine_have_one_launcher(launcher: str) -> None:
    assert {"--standalone", "--nproc_per_node=4"} < {*words(Launch(1, 4, launcher), "local")}
