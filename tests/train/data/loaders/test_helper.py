"""The loader in processes of its own: the same batches, and an end in bounded time whatever happens to a process."""

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import replace
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from benchmarks import feed
from dira_scale.base.errors import UserError
from dira_scale.base.machine.workers import worker_pool
from dira_scale.train.data import workers
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.train.data.order import EvalOrder, Order
from dira_scale.train.data.views import ViewSpec
from dira_scale.train.data.workers import Worker

SPEC = ViewSpec(size=24)
SECONDS = 60  # bound on every wait


@pytest.fixture
def arguments(make_dataset, radiograph):
    dataset = make_dataset([radiograph(60 + i, 80, seed=i) for i in range(10)])
    return {"datasets": [dataset], "split": "train", "order": Order((10,), 1, 4), "views": SPEC, "seed": 0}


@pytest.fixture
def new_server():
    """That forks processes, as of a program that has begun none: others here may have begun it otherwise."""
    state = vars(forkserver._forkserver)
    before = dict(state)
    workers._SHARED.clear()
    state.update(vars(forkserver.ForkServer()))
    yield
    os.close(state["_forkserver_alive_fd"])  # it ends with the last that it forked
    state.update(before)


def children():
    """The loaders' processes; they end with whoever has them."""
    gc.collect()
    server = forkserver._forkserver._forkserver_pid
    return psutil.Process(server).children() if server else []


def batches_of(arguments, processes=1, loader="cpu", steps=(0, 1000), **given):
    return choose(loader).build(LoaderSpec(**arguments | given), processes).iterate(*steps)


def assert_equal(a, b):
    assert (a.step, a.epoch) == (b.step, b.epoch)
    for x, y in zip(a.tensors(), b.tensors(), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


CROPS = replace(SPEC, crops=({"count": 2}, {"size": 16, "count": 3}))
HELD_OUT = {"order": EvalOrder(10, 4), "fixed_epoch": 0, "rank": 1, "world": 2, "views": CROPS}


@pytest.mark.parametrize(
    ("changed", "processes"),
    [
        ({}, 2),
        (HELD_OUT, 3),
        pytest.param({}, 1, marks=pytest.mark.system),
        pytest.param({}, 5, marks=pytest.mark.system),
    ],
    ids=["endless, 2", "to its end, 3", "endless, 1", "endless, 5"],
)
def test_batches_are_those_of_the_loader_itself(arguments, changed, processes, make_dataset, radiograph):
    """Every array of them, through more steps than there are slots; kept batches stay what they were; the last, short
    one is whole, and shares may be empty. Also of one rank of two, and of several sizes of crops."""
    given = arguments | changed
    if processes > 2:  # images of 16 bits
        images = [radiograph(60 + i, 80, seed=i).astype(np.uint16) * 257 for i in range(10)]
        given["datasets"] = [make_dataset(images, name="deep")]
    steps = (1, 9) if not changed else (0, 3)
    last = steps[1] if changed else 1000
    got = list(itertools.islice(batches_of(given, processes, steps=(steps[0], last), prefetch=1), 8))
    for a, b in zip(got, choose("cpu").build(LoaderSpec(**given)).iterate(*steps), strict=True):
        assert_equal(a, b)


class Fewer:
    """A loader of one's own, whose batches lack what may be lacking."""

    def __init__(self, spec):
        self.loader, self.seconds = (loader := choose("cpu").build(spec)), loader.seconds

    def iterate(self, *steps):
        return (replace(batch, flips=(), images=None) for batch in self.loader.iterate(*steps))


def test_a_loader_of_ones_own_makes_whole_batches(arguments):
    loader = {"_target_": f"{__name__}.Fewer"}
    steps = [[*batches_of(arguments, processes, loader, (0, 4))] for processes in (0, 1)]
    for a, b in zip(*steps, strict=True):
        assert_equal(a, b)


def test_processes_stay_from_one_iterator_to_the_next_and_end_with_their_loaders(arguments):
    """Two loaders share them, an iterator may be within another one, and one that is closed early is left."""
    spec = LoaderSpec(**arguments, prefetch=1)
    loader, held_out = (choose("cpu").build(replace(spec, **given), 2) for given in ({}, {"fixed_epoch": 0}))
    batches = loader.iterate(0, 1000)
    first, processes = next(batches), {process.pid for process in children()}
    assert len(processes) == 2 and loader.seconds()["decode"] > 0 and loader.seconds()["wait"] > 0
    for _ in range(2):
        assert [batch.step for batch in held_out.iterate(0, 3)] == [0, 1, 2]
        with pytest.raises(StopIteration), closing(loader.iterate(0, 1)) as again:
            assert_equal(next(again), first)
            next(again)
    assert [batch.step for batch in itertools.islice(batches, 3)] == [1, 2, 3]
    batches.close()
    for _ in range(16):
        assert_equal(next(loader.iterate(0, 1000)), first)
    assert {process.pid for process in children()} == processes
    for pid in processes:
        memory = [file for file in Path(f"/proc/{pid}/fd").iterdir() if "memfd" in str(file.readlink())]
        assert len(memory) < 12, "memory of what is closed stays"
    del loader, held_out, batches, again
    assert not children()


def test_a_slot_is_filled_again_only_when_its_copy_is_over(arguments, monkeypatch):
    """On a pretended GPU, where a copy is over when its event is waited for."""
    loader = choose("cpu").build(LoaderSpec(**arguments, prefetch=1), 1)
    call, filled, copying = Worker.call, [], set()

    def fill(worker, job, iterator, steps, step, slot, samples):
        assert slot not in copying
        filled.append(slot)
        return call(worker, job, iterator, steps, step, slot, samples)

    def event():
        begun = set(copying)
        return SimpleNamespace(synchronize=lambda: copying.difference_update(begun))

    monkeypatch.setattr(Worker, "call", fill)
    loader.copies = SimpleNamespace(pinned=False, beside=iter, event=event)
    for batch in loader.iterate(0, 20):
        copying.add(filled[batch.step])
    assert set(filled) == set(range(3)) and len(filled) == 20


@pytest.mark.parametrize(("count", "which"), [(1, 0), *(pytest.param(2, i, marks=pytest.mark.system) for i in (0, 1))])
def test_a_killed_process_is_an_error(arguments, count, which, monkeypatch, new_server):
    start = Worker.__init__

    def started(worker, *given):
        start(worker, *given)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # what a scheduler sends to all is not for it
            os.kill(worker.process.pid, number)

    monkeypatch.setattr(Worker, "__init__", started)
    batches = batches_of(arguments, count, prefetch=1)
    next(batches)
    processes = children()
    for process in processes:
        process.terminate()
    next(batches)
    processes[which].kill()
    with pytest.raises(UserError, match=r"processes ended by itself \(signal 9\).*without `helper`"):
        for _ in batches:
            pass
    assert next(batches_of(arguments, count)).step == 0  # by others
    del batches
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
    loader = choose("stream").build(LoaderSpec(**arguments), 2)
    batches = loader.iterate(0, 1000)
    assert [batch.step for batch in itertools.islice(batches, earlier)] == list(range(earlier))
    with pytest.raises(UserError, match=rf"sample {dataset.cell('key', broken)} .*cannot be read"):
        next(batches)
    assert loader.seconds()["fetch"] == 0


def test_a_process_that_ends_within_a_message_is_an_error(arguments, monkeypatch):
    batches = batches_of(arguments)
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
import builtins, os, signal, tempfile

folder = tempfile.TemporaryDirectory()  # its finalizer is there before multiprocessing
from dira_scale.base.machine.workers import parallel_map
from dira_scale.train.data.loaders import LoaderSpec
from dira_scale.train.data.loaders.build import choose
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.train.data.order import Order
from dira_scale.train.data.views import ViewSpec

if __name__ == "__main__":
    list(parallel_map(abs, ((number,) for number in range(2)), 2))  # begins the server, which blocks no signals
    datasets, views = [ShardedDataset.open({str(dataset.root)!r})], ViewSpec(size=24)
    spec = LoaderSpec(datasets=datasets, split="train", order=Order((10,), 1, 4), views=views, seed=0)
    loader = choose("cpu").build(spec, 2)
    builtins.kept = loader.iterate(0, 1000)
    next(kept)
    for worker in loader.workers:
        os.kill(worker.process.pid, signal.SIGTERM)
    [next(kept) for _ in range(9)]
    raise RuntimeError("the script's own")
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 1 and done.stderr.endswith("RuntimeError: the script's own\n")


@pytest.mark.system
@pytest.mark.timeout(SECONDS)
def test_a_pool_beside_a_loader_ends_when_one_of_its_processes_does(arguments, new_server):
    batches = batches_of(arguments)
    next(batches)
    with pytest.raises(BrokenProcessPool), worker_pool(2, "time") as pool:  # it sends SIGTERM to the sleeping one
        jobs = [pool.submit(time.sleep, 10 * SECONDS), pool.submit(os._exit, 1)]
        pool.submit(abs, 0)  # a pool sees the end of those processes that it has when a job is sent
        jobs[1].result()


@pytest.mark.timeout(SECONDS)
def test_what_processes_map_is_in_order_and_may_be_left(arguments):
    """Answers longer than a pipe, which nobody has read when the next job is sent, are no deadlock."""
    both = workers.shared(2)
    assert [*both.map(abs, range(-5, 0))] == [5, 4, 3, 2, 1]
    left = both.map(bytes, [10**7] * 9)
    assert len(next(left)) == 10**7
    left.close()
    assert [*both.map(partial(max, bytes(10**7)), [b""])] == [bytes(10**7)]
    with pytest.raises(RuntimeError, match="ValueError"):
        next(both.map(bytes, [-1]))


@pytest.mark.system
def test_the_process_ends_with_a_killed_trainer(arguments, tmp_path):
    def train():
        batches = batches_of(arguments)
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


@pytest.mark.parametrize(("processes", "free"), [(1, True), (0, False)], ids=["process", "thread"])
def test_a_process_of_its_own_leaves_the_interpreter_to_what_launches(make_dataset, radiograph, processes, free):
    """A pretended step's launches, beside a loader that always works: what their thread is blocked for, beside what it
    runs, whoever else has the cores."""
    dataset = make_dataset([radiograph(512, 512, seed=i) for i in range(6)], "jpg")
    spec = LoaderSpec([dataset], "train", Order((6,), 0, 48, remainder="wrap"), ViewSpec(), 0, prefetch=1)
    blocked = []
    with closing(choose("cpu").build(spec, processes).iterate(0, 1000)) as batches:
        while not blocked or (not free and blocked[-1] <= 0.05 and len(blocked) < 40):  # a thread may get no core
            ran, took = 0.0, 0.0
            for _ in itertools.islice(batches, 8):
                began = time.thread_time()
                took += feed.launch(500, 2000)
                ran += time.thread_time() - began
            blocked.append(took / ran - 1)
    assert (blocked[-1] <= 0.05) == free, f"launches are blocked for {blocked} of their time"
