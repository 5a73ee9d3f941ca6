"""Steps that are recorded and replayed are the launched ones bit for bit: on a CPU by a tape, marked gpu as graphs."""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness import assert_equal_runs, finish, rows
from torch import Tensor, nn
from toy_run import write
from train.engine.tape import Tape, as_on_a_gpu
from train.engine.test_waiting import EXPERIMENTS

from benchmarks.gpu.graph import RECIPES, measured
from benchmarks.gpu.loops import Ours, alone
from benchmarks.gpu.recipes import words
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.base.machine import graphs
from dira_scale.train.engine import graph
from dira_scale.train.methods import Method
from dira_scale.train.runs.identity import differences, execution

CASES = EXPERIMENTS | {name: words(name, True) for name in ("simsiam", "dinov2_vitb14", "dino_vit3d")}
ONE = ["precision=fp32", "parallel.threads=1", "parallel.accumulate=1", "health.every=1"]
QUICK = ("moco", "labels", "dino_vit3d")
HOSTS = {"swav", "c2l", "pcrl", "released pcrl", "pcrl3d"}  # what they draw is not on the device


@pytest.fixture
def taped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    threads = torch.get_num_threads()
    as_on_a_gpu(monkeypatch.setattr)
    with alone():
        yield
    torch.set_num_threads(threads)


def stepped(loop: Ours, numbers: Sequence[int]) -> dict[str, Any]:
    """What these steps leave: weights, states, metrics, the guard's record."""
    method, guard = loop.model.module, loop.take.guard
    for number in numbers:
        if isinstance(method, Method):
            method.steps, method.progress = 10, number / 10
            method.before_step()
        loop.take(number, replace(loop.batches[number % 4], step=number))
    return loop.copied() | {str(k): v.clone() for k, v in guard._values.items()} | loop.means.take()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.system) for name in CASES]
)
def test_replayed_steps_are_the_launched_ones(name: str, taped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """On other batches, while a method's progress moves."""
    command, *given = [word.replace("=resnet18", "=test_resnet") for word in CASES[name]]
    loop = Ours(command, *given, *ONE[: None if command == "pretrain" else -1])
    why = graph.obstacle("ddp", 1, False, "fp32", loop.model.module)
    assert bool(why) == (name in HOSTS)
    if why:
        return
    stepped(loop, [0])
    start = loop.copied()
    right = stepped(loop, range(1, 5))
    loop.restore(start)
    monkeypatch.setattr(graph, "LAUNCHED", 1)
    told, before = list[str](), Tape.replayed
    modules = [loop.model.module, *(side.module for side in loop.task.side_modules)]
    loop.take.recorder = graph.Recorder(loop.device, modules, lambda line, **_: told.append(line))
    actual = stepped(loop, range(1, 5))
    assert told == [] and Tape.replayed >= before + 2  # two steps of at least a part
    assert actual.keys() == right.keys()
    assert [k for k, v in right.items() if not torch.equal(torch.as_tensor(actual[k]), torch.as_tensor(v))] == []


RUN = [
    "method=dira_moco", "method.base.queue=64", "method.base.dim=16", "model.encoder=test_resnet", "optim=sgd_moco",
    "model.decoder_channels=[16,16,8,8,8]", "data.size=32", "data.batch=16", "precision=fp32", "parallel.threads=1",
    "stages.di.epochs=2", "stages.dir.epochs=0", "stages.dira.epochs=3", "stages.dira.patience=null", "health.every=3",
    "log_every=1", "data.workers=1", "optim.clip=1.0",
]  # fmt: skip


@pytest.mark.system
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_replayed_over_a_change_of_stage_and_a_stop(ranks: int, tmp_path: Path) -> None:
    """Monitors and validations between; two processes exchange keys and gradients between graphs."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, str(Path(__file__).with_name("graphed.py")), *RUN]
    command += [f"data.shards={write(tmp_path / 'toy')}"]
    finish([*command, f"run={tmp_path / 'launched'}", "parallel.graph=false"])
    replayed = [*command, f"run={tmp_path / 'replayed'}", "parallel.graph=true"]
    for words_of_call in (["steps=8"], []):
        assert "replayed 0" not in finish([*replayed, *words_of_call])
    assert_equal_runs(tmp_path / "replayed", tmp_path / "launched")
    health = [[{k: v for k, v in row.items() if k.startswith("health")} for row in rows(tmp_path / run)]
              for run in ("replayed", "launched")]  # fmt: skip
    assert health[0] == health[1] and sum(map(bool, health[0])) == 5


class Counting(nn.Module):
    """A module with a list, as of keys that wait, which a step fills and empties, and a gradient."""

    def __init__(self, work: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.waiting, self.work, self.count = list[Tensor](), work, 0
        self.weight = nn.Parameter(torch.ones(()))

    def take(self, batch: Any) -> list[dict[str, Tensor]]:
        self.waiting.append(batch.x)
        (self.weight * batch.x.sum()).backward()
        self.work(self, batch.x)
        gradient, self.weight.grad = self.weight.grad, None
        assert len(self.waiting) == 1 and gradient is not None
        self.waiting.clear()
        return [{"sum": gradient}]


def batch(x: Tensor) -> Any:
    return SimpleNamespace(
        x=x, tensors=lambda: [x], held=lambda device: batch(x.clone()), fill=lambda other: x.copy_(other.x)
    )


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("work", "said"), [
    (lambda module, x: float(x.sum() + torch.rand_like(x).sum()), "/test_graph.py:"),
    (lambda module, x: x[x > 0], "/test_graph.py:"),
    (lambda module, x: MOVING.progress, "progress is read while"),
    (lambda module, x: setattr(module, "count", module.count + 1), "each step sets Counting.count"),
])  # fmt: skip
def test_a_step_that_reads_the_host_is_named_and_launched(
    work: Callable[[nn.Module, Tensor], Any], said: str, device: str, taped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(graph.GRAPHS, "cuda", graphs.CudaGraphs)
    told, module = list[str](), Counting(work).to(device)
    recorder = graph.Recorder(torch.device(device), [nn.Module(), module], lambda line, **_: told.append(line))
    batches = (batch(torch.full((2,), float(i), device=device)) for i in range(6))
    sums = [float(recorder(each, False, module.take)[0]["sum"]) for each in batches]
    assert sums == [2.0 * i for i in range(6)] and len(told) == 1
    assert told[0].startswith("parallel.graph: steps are launched, as recording one has failed at /")
    assert said in told[0]


MOVING = Method.__new__(Method)
nn.Module.__init__(MOVING)
MOVING.progress = 0.5


def test_what_is_launched_by_a_thread_of_a_backward_pass_cannot_be_recorded(taped: None) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match="a backward pass has work of the host in it"):
        graphs.Recording(Tape(torch.device("cpu"))).of(lambda: pool.submit(graphs.launch, lambda: None).result())


WORLD: Any = SimpleNamespace(device=torch.device("cpu"), precision="fp32")


def parallel(**given: Any) -> Any:
    return SimpleNamespace(
        **{"graph": True, "strategy": "ddp", "accumulate": 1, "checkpoint_activations": False} | given
    )


@pytest.mark.parametrize(("given", "precision", "said"), [
    ({"strategy": "fsdp2"}, "fp32", "strategy fsdp2 gathers"), ({"accumulate": 2}, "fp32", "parallel.accumulate=2"),
    ({}, "fp16", "fp16 decides"), ({"checkpoint_activations": True}, "bf16", "checkpoint_activations=true reads"),
])  # fmt: skip
def test_why_steps_are_launched(given: dict[str, Any], precision: str, said: str, taped: None) -> None:
    told: list[tuple[str, bool]] = []
    made = graph.recorder(parallel(**given), SimpleNamespace(device=WORLD.device, precision=precision), [nn.Module()],  # type: ignore[arg-type]
                          lambda line, detail=False: told.append((line, detail)))  # fmt: skip
    assert made is None and len(told) == 1 and said in told[0][0] and told[0][1]


def test_the_key_of_before_is_named_and_runs_that_have_it_go_on() -> None:
    with pytest.raises(UserError, match=r"unknown key parallel.cuda_graphs; did you mean 'parallel.graph'\?"):
        compose("pretrain", ["data.shards=none", "parallel.cuda_graphs=true"])
    before, now = {"seed": 0, "parallel": {"cuda_graphs": False}}, {"seed": 0, "parallel": {"graph": "auto"}}
    assert differences(before, now, execution("pretrain")) == []


@pytest.mark.gpu
@pytest.mark.parametrize("name", RECIPES)
def test_graphs_are_the_launched_steps(name: str) -> None:
    """Whoever sees these pass adds GPU and torch to ``graph.PASSED``."""
    with alone():
        assert measured(*RECIPES[name], rehearse=False)["figures"]["replayed"]["fine"]
