"""Two nodes, with host names, addresses, cables and firewalls of their own: they learn as one does, or say why not."""

import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from forked import Forked, Started
from harness import EACH, SECONDS, SMALL, assert_equal_runs, error_lines, pretrain, status
from needs import skip_without
from system.faults import killed_at
from system.nodes import Node, missing, nodes

PORT = "29500"
TIMEOUT = 15  # parallel.timeout where something is to fail
NOBODY = 4  # the same where no process is to find another: however slow the machine, there is nothing to wait for
SHIFT = "import time; real = time.time; time.time = lambda: real() + {hours} * 3600; "
Processes = Sequence[Forked | Started]


@pytest.fixture
def pair() -> Iterator[list[Node]]:
    skip_without("netns", missing())
    with nodes(2) as made:
        yield made


def by_hand(pair: list[Node], *commands: list[str]) -> Processes:
    """A process a node, told by the environment who it is; of one command or of one each."""
    world = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "node-a", "MASTER_PORT": PORT}
    ranked = enumerate(zip(pair, (commands * 2)[:2], strict=True))
    return [node.start(command, world | {"RANK": str(i)}) for i, (node, command) in ranked]


def ends(processes: Processes) -> list[tuple[int, str]]:
    """Exit code and output of each, in bounded time."""
    return [(process.wait(SECONDS), process.printed()) for process in processes]


def test_nodes_that_cannot_reach_each_other_say_so_alike(pair: list[Node]) -> None:
    """The main port is open, the others are not, as firewalls are often set up."""
    for node in pair:
        node.drop("1024-29499", "29501-65535")
    meet = "from dira_scale.train.distributed.rendezvous import meet\nmeet(12)"
    (code_a, printed_a), (code_b, printed_b) = ends(by_hand(pair, [sys.executable, "-c", meet]))
    assert code_a == code_b == 1
    match = re.search(r"UserError: rank (\d) on node-[ab] does not reach rank (\d) on node-[ab] at .*", printed_a)
    assert match and match[1] != match[2] and match[0] in printed_b
    assert "within 6 s: no answer; open the ports between the nodes in the firewall" in match[0]


@pytest.mark.system
def test_two_launchers_that_lose_a_rank_come_together_again_and_learn_what_one_machine_does(
    pair: list[Node], unbroken_pair: Path, shards: Path, tmp_path: Path
) -> None:
    """Each counts restarts for itself, and knows nothing of the other's processes but that they no longer answer. The
    rank of the second node dies while it saves; both resume at the step before. Its processes start afresh."""
    run = tmp_path / "run"
    dies = "os.rename:000000003.1.tmp/part-1-00001-of-00002.safetensors:1"
    command, environment = killed_at(pretrain(run, shards, *EACH), dies)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max_restarts=3"]
    torchrun += ["--master_addr=node-a", f"--master_port={PORT}"]
    launched = [node.start([*torchrun, f"--node_rank={i}", *command[1:]], environment) for i, node in enumerate(pair)]
    for code, printed in ends(launched):
        assert code == 0, printed
    assert "from step 2 of 6" in (run / "log.txt").read_text() and status(run)["lease"] == 2
    assert_equal_runs(run, unbroken_pair)


HOLD = """
from pathlib import Path
from dira_scale.train.runs import lease
from dira_scale.train.distributed.timings import TIMINGS
TIMINGS.beat, TIMINGS.dead_after = 0.2, 4
print("held", lease.Lease(Path({run!r})).number)
"""


@pytest.mark.system
@pytest.mark.parametrize("hours", [pytest.param(-3, marks=pytest.mark.torture), 3])
def test_a_lease_does_not_go_by_the_clocks_of_two_machines(pair: list[Node], tmp_path: Path, hours: int) -> None:
    hold = HOLD.format(run=str(tmp_path))
    holder = pair[0].start([sys.executable, "-c", f"{hold}import time; time.sleep(1000)"])
    deadline = time.monotonic() + SECONDS
    while holder.printed() != "held 1\n":
        assert holder.poll() is None and time.monotonic() < deadline, holder.printed()
        time.sleep(0.02)
    other = [sys.executable, "-c", SHIFT.format(hours=hours) + hold]
    code, printed = ends([pair[1].start(other)])[0]
    assert code == 1 and "a running process on node-a" in printed
    pair[0].kill()
    code, printed = ends([pair[1].start(other)])[0]
    assert code == 0 and "held 2" in printed


@pytest.mark.system
def test_a_node_whose_cable_is_pulled_ends_the_other(pair: list[Node], shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = pretrain(run, shards, "epoch_factor=50", f"parallel.timeout={TIMEOUT}", "checkpoint.every=10")
    processes = by_hand(pair, command)
    wait_for(run / "checkpoints" / "LATEST", processes)
    pair[1].link(up=False)
    code, printed = ends(processes)[0]
    assert code == 1 and len(error_lines(printed)) == 1, printed
    assert printed.count(f"warning: parallel.timeout={TIMEOUT}: taking over a run") == 1
    (line,) = error_lines(printed)
    assert line.startswith("pretrain: rank 0 on node-a lost the other processes (")
    assert "the same command resumes from the last checkpoint" in line
    assert status(run)["state"] == "failed" and "rank 0 on node-a lost" in status(run)["reason"]
    pair[1].link(up=True)
    (code_a, printed_a), (code_b, printed_b) = ends(by_hand(pair, [*command, "steps=22"]))
    assert code_a == code_b == 0, printed_a + printed_b
    assert re.search(r"from step [12]0 of 22", printed_a) and status(run)["step"] == 22


@pytest.mark.system
def test_a_main_process_behind_a_closed_port(pair: list[Node], shards: Path, tmp_path: Path) -> None:
    pair[0].drop(PORT)
    command = pretrain(tmp_path / "run", shards, f"parallel.timeout={NOBODY}")
    (code_a, printed_a), (code_b, printed_b) = ends(by_hand(pair, command))
    assert (code_a, code_b) == (2, 2)
    message = f"at node-a:29500 within {NOBODY} s: no answer; open the ports"
    assert f"rank 1 on node-b does not reach the main process {message}" in printed_b
    assert len(error_lines(printed_b)) == 1
    assert len(error_lines(printed_a)) == 1 and "1/2 clients joined): start every node" in printed_a
    assert not (tmp_path / "run").exists()


@pytest.mark.system
def test_a_host_name_that_means_the_machine_itself(pair: list[Node], shards: Path, tmp_path: Path) -> None:
    """As Debian sets up /etc/hosts: 127.0.1.1 NAME. The second process starts a Python of its own, the first one is
    forked: seconds lie between them, under load many, so that a short timeout would be what fails."""
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n127.0.1.1 node-b\n{pair[0].address} node-a\n")
    command = pretrain(tmp_path / "run", shards, SMALL)
    resolving = ["sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh", *command]
    for code, printed in ends(by_hand(pair, command, resolving)):
        assert code == 2
        (line,) = error_lines(printed)
        assert "node-b resolves its own name to 127.0.1.1, which no other machine can reach" in line
    mended = ["env", "GLOO_SOCKET_IFNAME=eth0", *resolving, "steps=1"]
    for code, printed in ends(by_hand(pair, [*command, "steps=1"], mended)):
        assert code == 0, printed


@pytest.mark.system
def test_what_differs_between_nodes_is_named_once(pair: list[Node], shards: Path, tmp_path: Path) -> None:
    run, code = tmp_path / "run", tmp_path / "code"
    shutil.copytree(Path(__file__).parents[2] / "dira_scale", code / "dira_scale")
    shutil.copytree(Path(__file__).parents[2] / "configs", code / "configs")
    (code / "pyproject.toml").touch()
    with (code / "dira_scale" / "errors.py").open("a") as file:
        file.write("# mended on one node only\n")
    other = ["env", f"--chdir={code}", f"PYTHONPATH={code}", *pretrain(run, shards, "seed=1", "data.prefetch=3")]
    (code_a, printed_a), (code_b, printed_b) = ends(by_hand(pair, pretrain(run, shards), other))
    assert (code_a, code_b) == (2, 2)
    (line,) = error_lines(printed_a)
    assert re.search(
        r"rank\(s\) 1 on node-b differ from rank 0 on node-a in seed \(1 instead of 0\), the code of", line
    )
    assert error_lines(printed_b) == []  # once
    assert not run.exists()


def wait_for(file: Path, processes: Processes) -> None:
    deadline = time.monotonic() + SECONDS
    while not file.exists():
        ended = [process for process in processes if process.poll() is not None]
        assert not ended, ends(ended)
        assert time.monotonic() < deadline, f"no {file} after {SECONDS} s"
        time.sleep(0.05)
    time.sleep(0.5)  # into the steps after it
