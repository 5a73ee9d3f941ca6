"""The loader in processes of its own: the same batches, and an end in bounded time whatever happens to a process."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from types import SimpleNamespace

import psutil
import pytest
import torch

from dira_scale.base.errors import UserError
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.train.data.loaders.helper import Helper
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.views import ViewSpec

SPEC = ViewSpec(size=24)
SECONDS = 60  # bound on every wait


@pytest.fixture
def arguments(make_dataset, radiograph):
    dataset = make_dataset([radiograph(60 + i, 80, seed=i) for i in range(10)])
    return {"datasets": [dataset], "split": "train", "order": Order((10,), 1, 4), "views": SPEC, "seed": 0}


def children():
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # of another test, and a zombie
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


CROPS = replace(SPEC, crops=({"count": 2}, {"size": 16, "count": 3}))
HELD_OUT = {"order": EvalOrder(10, 4), "fixed_epoch": 0, "rank": 1, "world": 2, "views": CROPS}


@pytest.mark.parametrize(
    ("changed", "processes"),
    [
        ({}, 2),
        pytest.param({}, 1, marks=pytest.mark.system),
        pytest.param({}, 3, marks=pytest.mark.system),
        pytest.param(HELD_OUT, 2, marks=pytest.mark.system),
    ],
    ids=["endless, 2", "endless, 1", "endless, 3", "to its end, 2"],
)
def test_batches_are_those_of_the_loader_itself(arguments, changed, processes):
    """Through more steps than there are slots; kept batches stay what they were; the last, short one is whole. An
    iterator that is closed leaves no process, and so does one that is at its end. Also of one rank of two, and of
    several sizes of crops."""
    given = arguments | changed
    steps = range(1, 9) if not changed else range(3)
    helper = choose("cpu").in_processes(processes).build(LoaderSpec(**given, prefetch=1, workers=2))
    plain = choose("cpu").build(LoaderSpec(**given))
    batches = helper.iterate(steps.start, 1000 if not changed else steps.stop)
    got = list(itertools.islice(batches, 8))
    expected = list(plain.iterate(steps.start, steps.stop))
    assert len(got) == len(expected) == len(steps)
    for a, b in zip(got, expected, strict=True):
        assert a.step == b.step and torch.equal(a.index, b.index) and torch.equal(a.labels, b.labels)
        assert all(torch.equal(x, y) for x, y in zip(a.views, b.views, strict=True))
        assert torch.equal(a.distortions[1].boxes, b.distortions[1].boxes)
    assert helper.seconds()["decode"] > 0 and helper.seconds()["wait"] > 0
    assert len(children()) == (0 if changed else processes)
    batches.close()
    assert not children()


def test_a_slot_is_filled_again_only_when_its_copy_is_over(arguments, monkeypatch):
    """On a pretended GPU, where a copy is over when its event is waited for, and with a process that fills at once."""
    free, filled, copying = deque(), [], set()
    batch = next(choose("cpu").build(LoaderSpec(**arguments)).iterate(0, 1))
    batch = replace(batch, views=tuple(view.to("meta") for view in batch.views))

    def give_back(slot):
        assert slot not in copying
        free.append(slot)

    def receive():
        filled.append(free.popleft())
        return filled[-1], batch, {}

    def event():
        begun = set(copying)
        return SimpleNamespace(synchronize=lambda: copying.difference_update(begun))

    nothing = dict.fromkeys(("begin", "kill", "join"), lambda *_: None)
    helper = SimpleNamespace(**nothing, fill=give_back, receive=receive)
    monkeypatch.setattr("dira_scale.train.data.loaders.helper.Helper", lambda _: helper)
    loader = choose("cpu").in_processes(1).build(LoaderSpec(**arguments, prefetch=1))
    loader.copies = SimpleNamespace(pinned=False, beside=iter, event=event)
    for _ in loader.iterate(0, 20):
        copying.add(filled[-1])
    assert set(filled) == set(range(3)) and len(filled) == 20


@pytest.mark.parametrize(("count", "which"), [(1, 0), *(pytest.param(2, i, marks=pytest.mark.system) for i in (0, 1))])
def test_a_killed_process_is_an_error(arguments, count, which, monkeypatch):
    def started(slots):
        helper = Helper(slots)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # what a scheduler sends to all is not for it
            os.kill(helper._process.pid, number)
        return helper

    monkeypatch.setattr("dira_scale.train.data.loaders.helper.Helper", started)
    batches = choose("cpu").in_processes(count).build(LoaderSpec(**arguments, prefetch=1)).iterate(0, 1000)
    next(batches)
    processes = children()
    for process in processes:
        process.terminate()
    next(batches)
    processes[which].kill()
    while processes[which].status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.02)
    with pytest.raises(UserError, match=r"processes ended by itself \(signal 9\).*without `helper`"):
        for _ in batches:
            pass
    assert not children()


@pytest.mark.system
def test_a_damaged_sample_is_an_error_at_its_batch(arguments):
    """Of the process that reads it, whose sums have those of its loader (``stream``: what it has fetched)."""
    (dataset,) = arguments["datasets"]
    broken = arguments["order"].batch_at(3).index[0]
    with (dataset.root / str(dataset.cell("shard", broken))).open("r+b") as shard:
        shard.seek(int(dataset.column("offset")[broken]))
        shard.write(b"broken")
    earlier = next(step for step in range(4) if broken in arguments["order"].batch_at(step).index)
    loader = choose("stream").in_processes(2).build(LoaderSpec(**arguments))
    batches = loader.iterate(0, 1000)
    assert [batch.step for batch in itertools.islice(batches, earlier)] == list(range(earlier))
    with pytest.raises(UserError, match=rf"sample {dataset.cell('key', broken)} .*cannot be read"):
        next(batches)
    assert loader.seconds()["fetch"] == 0 and not children()


def test_a_process_that_ends_within_a_message_is_an_error(arguments, monkeypatch):
    batches = choose("cpu").in_processes(1).build(LoaderSpec(**arguments)).iterate(0, 1000)
    next(batches)
    receive = Connection.recv_bytes

    def cut_short(connection):
        children()[0].kill()
        receive(connection)
        raise OSError("got end of file during message")

    monkeypatch.setattr(Connection, "recv_bytes", cut_short)
    with pytest.raises(UserError, match=r"processes ended by itself \(signal 9\)"):
        next(batches)


@pytest.mark.system
def test_a_script_that_ends_while_it_iterates_ends(make_dataset, radiograph, tmp_path):
    """An error may keep the iterator until the interpreter ends, which then waits for its processes."""
    dataset = make_dataset([radiograph(60 + i, 80, seed=i) for i in range(10)])
    script = tmp_path / "script.py"
    script.write_text(f"""
import builtins
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.order import Order
from dira_scale.train.data.views import ViewSpec

if __name__ == "__main__":
    datasets, views = [ShardedDataset.open({str(dataset.root)!r})], ViewSpec(size=24)
    spec = LoaderSpec(datasets=datasets, split="train", order=Order((10,), 1, 4), views=views, seed=0)
    builtins.kept = choose("cpu").in_processes(2).build(spec).iterate(0, 1000)
    next(kept)
    raise RuntimeError("the script's own")
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: the script's own\n")


@pytest.mark.system
def test_the_process_ends_with_a_killed_trainer(arguments, tmp_path):
    def train():
        batches = choose("cpu").in_processes(1).build(LoaderSpec(**arguments)).iterate(0, 10**6)
        next(batches)
        (tmp_path / "pid").write_text(str(children()[0].pid))
        time.sleep(SECONDS)

    trainer = multiprocessing.get_context("fork").Process(target=train)
    trainer.start()
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert trainer.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.join()
    pid = int((tmp_path / "pid").read_text())
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
