"""Who is who under srun; processes that cannot meet; memory; open files. (Whole nodes: tests/system/test_nodes.py.)"""

import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from harness import finish, job, together

from dira_scale.base.errors import UserError, local_rank
from dira_scale.base.machine import device
from dira_scale.base.machine.hardware import Gpu, cpu_bf16
from dira_scale.train.distributed.config import Parallel
from dira_scale.train.distributed.processes import default_threads, idle_cores, start
from dira_scale.train.distributed.rendezvous import _agree_on_name, meet
from dira_scale.train.distributed.slurm import PORTS, first_host, set_launch_variables

CUDA = "import torch; torch.cuda.is_available = lambda: True"
STEP = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[03-05],big1",
    "SLURM_NTASKS": "7",
}


def test_the_main_process_is_on_the_first_node_of_slurms_list() -> None:
    lists = {"node": "node", "a,b": "a", "gpu[7],gpu-b[1-2]": "gpu7", "rack[2-3]n[04-08],b": "rack2n04"}
    lists |= {"gpu[03-05,9],big1": "gpu03", "r1n[12,14-16]": "r1n12", "login-1.cluster.org,n2": "login-1.cluster.org"}
    assert {nodes: first_host(nodes) for nodes in lists} == lists


def test_tasks_of_a_step_become_ranks() -> None:
    """Seven tasks on four nodes, numbered as srun does."""
    ports = set()
    for rank, (node, local) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]):
        environ = STEP | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(local), "SLURM_NODEID": str(node)}
        set_launch_variables(environ)
        expected = {
            "RANK": str(rank),
            "LOCAL_RANK": str(local),
            "WORLD_SIZE": "7",
            "LOCAL_WORLD_SIZE": "1" if node == 3 else "2",
            "MASTER_ADDR": "gpu03",
        }
        assert {name: environ[name] for name in expected} == expected
        ports.add(int(environ["MASTER_PORT"]))
    assert len(ports) == 1 and ports <= set(PORTS)


def test_jobs_steps_and_lives_that_share_a_node_get_ports_of_their_own() -> None:
    ports = set()
    for number, step, restart in product(range(100, 120), range(3), range(3)):
        environ = STEP | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
        environ |= {"SLURM_JOB_ID": str(number), "SLURM_STEP_ID": str(step), "SLURM_RESTART_COUNT": str(restart)}
        set_launch_variables(environ)
        ports.add(environ["MASTER_PORT"])
    assert len(ports) == 20 * 3 * 3


@pytest.mark.parametrize(
    ("gpus", "number"),
    [
        ("", "1"),  # none
        ("2,3", "1"),  # --gpus-per-node=2: both tasks see both
        ("3", "0"),  # --gpus-per-task=1: this one's is the only one
    ],
)
def test_a_task_takes_the_gpu_that_is_its_own(gpus: str, number: str) -> None:
    environ = STEP | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "CUDA_VISIBLE_DEVICES": gpus}
    set_launch_variables(environ)
    assert environ["LOCAL_RANK"] == number


@pytest.mark.parametrize(
    ("environ", "number"),
    [
        ({"RANK": "5", "LOCAL_RANK": "1"}, 1),
        ({"RANK": "5", "LOCAL_RANK": "0", "SLURM_LOCALID": "1"}, 1),  # each task sees one GPU
        ({"RANK": "5", "LOCAL_RANK": "1", "SLURM_LOCALID": "0"}, 1),  # torchrun in a task
        ({"SLURM_LOCALID": "3"}, 0),  # a run of its own
        ({}, 0),
    ],
)
def test_who_speaks_for_a_machine(environ: dict[str, str], number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert local_rank() == number


def test_a_launcher_that_has_said_who_is_who_is_left_alone() -> None:
    task = STEP | {"SLURM_PROCID": "3", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}
    for environ in (
        task | {"RANK": "0", "WORLD_SIZE": "2"},  # torchrun inside srun
        {},  # no SLURM
        task | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun --pty bash
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},  # a batch script of one task
    ):
        before = dict(environ)
        set_launch_variables(environ)
        assert environ == before


def test_a_batch_script_of_several_tasks_without_srun_is_refused() -> None:
    with pytest.raises(UserError, match="has 4 tasks, and its script starts one process: write srun python"):
        set_launch_variables({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"})


STARTED = """
import sys
import torch.distributed as dist
from dira_scale.train.distributed.config import Parallel
from dira_scale.train.distributed.processes import start
world = start(Parallel(sys.argv[1], 1, 1, False, False, False, False, 60, *sys.argv[2:]), "auto")
print(world.device, dist.get_backend(), world.precision)
"""


@pytest.mark.parametrize("strategy", ["fsdp2", pytest.param("zero1", marks=pytest.mark.system)])
def test_a_run_that_leaves_the_gpu_alone_has_the_cpu_and_gloo(strategy: str, tmp_path: Path) -> None:
    """Where torch says that there is one. The precision is the CPU's, too: a GPU would be asked for its capability."""
    if strategy == "zero1":
        pytest.importorskip("deepspeed")
    script = tmp_path / "started.py"
    script.write_text(STARTED)
    printed = finish([sys.executable, str(script), strategy, "cpu"], before=CUDA)
    expected = "bf16" if cpu_bf16() else "fp32"
    assert f"cpu gloo {expected}" in printed.splitlines()


def test_gpus_that_torch_cannot_use_end_a_run_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the environment or the threads are changed."""
    monkeypatch.setattr(device, "gpus", lambda: ((Gpu("H100", 80.0, "570.86", 9.0),), ""))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    before = dict(os.environ)
    with pytest.raises(UserError, match=r"driver 570\.86 shows 1 GPU"):
        start(Parallel("fsdp2", 1, 1, False, False, False, False, 60), "fp32")
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("ranks", "shard", "divisors"), [("12", 5, "1, 2, 3, 4, 6, 12"), ("1", 2, "1"), ("3", 6, "1, 3")]
)
def test_processes_that_shards_do_not_divide_are_refused(
    ranks: str, shard: int, divisors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", ranks)
    message = f"parallel.shard={shard}: expected auto, or a divisor of {ranks} processes: {divisors}"
    with pytest.raises(UserError, match=re.escape(message)):
        start(Parallel("fsdp2", 1, 1, False, False, False, False, 60, shard=shard), "fp32")


@pytest.mark.parametrize(
    ("busy", "environ", "idle"),
    [
        ([0.0, 0.0, 0.0, 0.0], {}, 4),
        ([0.2, 0.1, 0.1, 0.0], {}, 4),  # less than half a core
        ([1.0, 0.0, 0.0, 0.0], {}, 3),
        ([0.3, 0.3, 0.3, 0.3], {}, 3),
        ([1.0, 1.0, 1.0, 1.0], {}, 1),
        ([0.0, 0.0, 0.0, 0.0, 1.0, 1.0], {}, 4),  # on cores that this process may not use
        ([1.0, 1.0, 1.0, 1.0], {"LOCAL_WORLD_SIZE": "2"}, 3),  # not looked at: its share
        ([1.0, 1.0, 1.0, 1.0], {"SLURM_JOB_ID": "7"}, 3),
        ([1.0, 1.0, 1.0], {}, 3),  # a container that hides a CPU
    ],
)
def test_cores_that_other_programs_leave_idle(
    busy: list[float], environ: dict[str, str], idle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``busy``: the share of each core's time that others take; this process takes half of the first core itself."""
    clock = [0.0]
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr("dira_scale.train.distributed.processes.time", SimpleNamespace(
        sleep=lambda seconds: clock.append(clock[-1] + seconds), monotonic=lambda: clock[-1],
        process_time=lambda: 0.5 * clock[-1],
    ))  # fmt: skip
    monkeypatch.setattr("psutil.cpu_times", lambda percpu: [
        SimpleNamespace(user=clock[-1] * (share + 0.5 * (cpu == 0)), system=0.0) for cpu, share in enumerate(busy)
    ])  # fmt: skip
    for name in ("LOCAL_WORLD_SIZE", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert idle_cores(3 if environ or len(busy) == 3 else 4) == idle


@pytest.mark.parametrize(
    ("environ", "threads"),
    [
        ({}, 8),  # of 12 cores, those that this process may use
        ({"LOCAL_WORLD_SIZE": "4"}, 2),
        ({"LOCAL_WORLD_SIZE": "64"}, 1),
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_PER_TASK": "3"}, 3),  # srun says how many a task has
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_PER_TASK": "64"}, 8),
        ({"LOCAL_WORLD_SIZE": "4", "SLURM_CPUS_PER_TASK": "64", "TORCHELASTIC_RUN_ID": "none"}, 2),  # torchrun in it
        ({"DIRA_SCALE_CPUS_PER_TASK": "3", "OMP_NUM_THREADS": "1"}, 3),  # a sweep on this machine says it
        ({"DIRA_SCALE_CPUS_PER_TASK": "64"}, 8),
        ({"DIRA_SCALE_CPUS_PER_TASK": "3", "LOCAL_WORLD_SIZE": "4"}, 2),
    ],
)
def test_cores_are_shared_among_the_processes_of_a_machine(
    environ: dict[str, str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.cpu_count", lambda logical: 12)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name in ("LOCAL_WORLD_SIZE", "SLURM_CPUS_PER_TASK", "TORCHELASTIC_RUN_ID", "DIRA_SCALE_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert default_threads() == threads


ENDS = """
import atexit, sys
from dira_scale.base.termination import end_at_once, leave

def main():
    print("in main")
    return 1 // int(sys.argv[2]) + 1

if sys.argv[1] == "2":
    end_at_once()
atexit.register(print, "Python's own end")
sys.exit(leave(main) + 5)
"""


@pytest.mark.parametrize(
    ("processes", "divisor", "code", "own_end"),
    [
        (2, 0, 1, False),
        pytest.param(1, 1, 7, True, marks=pytest.mark.system),
        pytest.param(1, 0, 1, True, marks=pytest.mark.torture),
        pytest.param(2, 1, 2, False, marks=pytest.mark.system),
    ],
)
def test_one_of_several_processes_ends_without_pythons_own_end(
    processes: int, divisor: int, code: int, own_end: bool
) -> None:
    """There gloo's threads may abort it. What it said is said all the same, and its errors, too."""
    command = [sys.executable, "-c", ENDS, str(processes), str(divisor)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stdout.splitlines() == ["in main"] + ["Python's own end"] * own_end
    assert ("ZeroDivisionError" in done.stderr) == (divisor == 0)


def test_one_process_meets_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert meet(1) is None


def test_starts_that_share_a_store_do_not_meet_each_others_dead() -> None:
    """An elastic launcher's store, in which the second start finds what the first has left."""
    store, names = dist.HashStore(), []
    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            agreed = set(pool.map(lambda rank: _agree_on_name(store, rank, 3, timeout=60), (2, 1, 0)))
            assert len(agreed) == 1
            names += agreed
    assert len(set(names)) == 3
    with pytest.raises(dist.DistStoreError, match=r"rank\(s\) 1, 2 did not connect"):  # earlier processes are dead
        _agree_on_name(store, 0, 3, timeout=1)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "rank 1 on .* at 127.0.0.1:1 within 1 s: that machine answers, but nothing"),
        ({"MASTER_ADDR": "nobody"}, "at nobody:1: unknown host name"),
        ({"GLOO_SOCKET_IFNAME": "eth77"}, "GLOO_SOCKET_IFNAME=eth77: .* has .*lo"),
        ({"RANK": "0", "MASTER_PORT": "free"}, r"not all of 2 processes connected to .* .*=1 s .*1/2 clients"),
        ({"RANK": "0", "MASTER_PORT": "taken"}, "port .* of .* is taken by another program: set another one"),
    ],
    ids=["nothing listens", "no such host", "no such interface", "nobody comes", "port taken"],
)
def test_processes_that_do_not_meet_say_why(
    environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.create_server(("", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        ports = {server: str(server.getsockname()[1]) for server in (taken, free)}
        free.close()
        environ = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"} | environ
        for name, value in environ.items():
            monkeypatch.setenv(name, {"taken": ports[taken], "free": ports[free]}.get(value, value))
        if environ["MASTER_ADDR"] == "nobody":
            monkeypatch.setattr("socket.create_connection", nobody)
        with pytest.raises(UserError, match=message):
            meet(1)


LIMITED = """
import logging, resource, sys
from dira_scale.train.distributed.processes import allow_open_files
from dira_scale.base.errors import UserError

logging.basicConfig(level=logging.INFO, format="%(levelname)s", stream=sys.stdout)
resource.setrlimit(resource.RLIMIT_NOFILE, (200, int(sys.argv[1])))
try:
    allow_open_files()
except UserError as error:
    print(error)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""
REFUSED = "allows a process 200 open files, and connecting 63 processes takes at least 20"


@pytest.mark.parametrize(
    ("hard", "rank", "ranks", "expected"),
    [
        (4096, 1, 63, []),
        (1024, 1, 2, []),  # what most machines have
        (700, 0, 63, ["WARNING"]),
        (700, 1, 63, []),  # once for a machine
        (200, 1, 63, [REFUSED]),  # three sockets to each of the others
        (1024, 0, 1024, []),  # connects only those that need it
    ],
)
def test_the_limit_is_raised_as_far_as_it_may_be_and_said_where_that_is_too_low(
    hard: int, rank: int, ranks: int, expected: list[str]
) -> None:
    environment = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    with job([sys.executable, "-c", LIMITED, str(hard)], **environment) as process:
        assert process.wait(60) == 0
        *lines, limit = process.printed().splitlines()
    assert limit == str(hard)
    assert len(lines) == len(expected), lines
    assert all(words in line for words, line in zip(expected, lines, strict=True)), lines


def test_one_process_keeps_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert finish([sys.executable, "-c", LIMITED, "1024"]).split() == ["200"]


# What a run sends until its first checkpoint has ended, then the same again without a store.
EIGHT = """
import os, sys
from datetime import timedelta
import torch.distributed as dist
from dira_scale.train.distributed import control, long_work, processes
from dira_scale.train.engine.signals import Signals

folder, rank, processes.LAZY = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.environ["WORLD_SIZE"] = "8"

def passed_on(name):
    return lambda self, *given: getattr(self.store, name)(*given)

class Counting(dist.Store):
    store, asked, there = dist.FileStore(f"{folder}/meet", 8), 0, True
    set, add, wait, set_timeout = map(passed_on, ("set", "add", "wait", "set_timeout"))
    def get(self, key):
        assert self.there
        self.asked += 1
        return self.store.get(key)

def sockets():
    return sum(os.readlink(f"/proc/self/fd/{fd}").startswith("socket:") for fd in os.listdir("/proc/self/fd")[:-1])

processes.allow_open_files()
store, before = Counting(), sockets()
dist.init_process_group("gloo", store=store, rank=rank, world_size=8, timeout=timedelta(seconds=60))
gather = long_work.gather_beside_training()
with Signals() as signals:
    signals.listen()
    for _ in range(2):
        control.check_equal({"seed": "0"})
        control.broadcast_from_main(rank)
        gather(rank)
        signals.agreed(wait=True)
        dist.barrier()
        store.there = False
    print(sockets() - before - 2, store.asked)  # two of Signals
    dist.barrier()
os._exit(0)  # gloo would abort a process that ends with its connections broken
"""


@pytest.mark.parametrize(("lazy", "most"), [(9, 7), (8, 5)])  # of a ring two, of trees and barriers log2(8)
def test_from_many_processes_on_each_connects_to_those_that_it_needs(lazy: int, most: int, tmp_path: Path) -> None:
    """Three groups, each with a socket that listens. Nothing is asked of the store after the first step."""
    commands = [[sys.executable, "-c", EIGHT, str(tmp_path), str(rank), str(lazy)] for rank in range(8)]
    counts = [[int(word) for word in printed.split()] for printed in together(commands)]
    opened, asked = zip(*counts, strict=True)
    assert max(opened) <= 3 * (most + 1) and max(asked) <= 3 * (most + 1), counts
    assert lazy == 8 or {*opened} == {24}, counts
