"""The checkpoint format: whole or refused, whatever the number of writers."""

import errno
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from harness import job
from safetensors.torch import save
from train.runs.writers import Kept, meeting, write

from dira_scale.base.errors import UserError
from dira_scale.train.distributed.control import AgreedError
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.engine import loop
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.checkpoint import Checkpointer, CheckpointTensor, DamagedError, NotSavedError, writer
from dira_scale.train.runs.checkpoint.reading import Newest, sealed
from dira_scale.train.runs.checkpoint.slices import slices_of
from dira_scale.train.runs.checkpoint.stored import CHUNK, PartFiles, checksum
from dira_scale.train.runs.lease import LeaseLostError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "method.weight": torch.randn(7, 5, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "method.queue_pointer": torch.tensor(41),
        "optim.generator.weight.exp_avg": torch.randn(64, 9, generator=generator),
        "optim.generator.weight.step": torch.tensor(3.0),
        "half": torch.randn(11, generator=generator).to(torch.bfloat16),
    }


@pytest.mark.parametrize("world", [1, 3])
def test_what_was_saved_is_loaded_bit_for_bit_from_any_number_of_writers(folder: Path, world: int) -> None:
    write(folder, 7, tensors(), world)
    loaded, state = checkpoint.load(folder / "000000007")
    assert state == {"stage": 1, "step": 7}
    assert loaded.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_the_copy_is_taken_at_once(folder: Path) -> None:
    content = tensors()
    expected = content["method.weight"].clone()
    writer = Checkpointer(folder, 1, 0, 1)
    writer.save(1, checkpoint.replicated(content), {}, {})
    content["method.weight"].zero_()
    writer.wait()
    assert torch.equal(checkpoint.load(folder / "000000001")[0]["method.weight"], expected)


def test_each_element_is_written_by_one_process_and_copies_share_the_bytes() -> None:
    """Of eight processes as 2 replicas of 4 shards: sharded tensors, one of fewer rows than shards, and copies."""
    ranks, shapes = 8, {"weight": (10, 7), "few": (3, 5), "queue": (9, 11), "step": (), "none": (0, 4)}
    tensors = {name: torch.arange(math.prod(shape), dtype=torch.float32).view(shape) for name, shape in shapes.items()}

    def held(rank: int) -> dict[str, CheckpointTensor]:
        pieces = checkpoint.replicated(tensors)
        for name in ("weight", "few"):
            rows = [*tensors[name].chunk(4), *[tensors[name][:0]] * 4][rank % 4]
            start = int(rows.flatten()[0]) if rows.numel() else tensors[name].numel()
            pieces[name] = CheckpointTensor(tensors[name].shape, rows, start, (rank // 4, 2))
        return pieces

    found: dict[str, list[tuple[int, int]]] = {name: [] for name in shapes}
    sizes = [0] * ranks
    for rank in range(ranks):
        for name, (start, stop) in slices_of(held(rank), rank, ranks).items():
            found[name].append((start, stop))
            sizes[rank] += 4 * (stop - start)
    for name, tensor in tensors.items():
        assert [i for span in sorted(found[name]) for i in range(*span)] == [*range(tensor.numel())], name
    for shard in range(4):
        assert abs(sizes[shard] - sizes[shard + 4]) <= 8


def as_before(folder: Path, step: int, content: dict[str, torch.Tensor], world: int) -> None:
    """A checkpoint of format 2: whole tensors, and a checksum a file."""
    made, names, parts = folder / f"{step:09d}", sorted(content), []
    made.mkdir()
    for rank in range(world):
        data = save({name: content[name].contiguous() for name in names[rank::world]})
        (made / f"part-1-{rank}.safetensors").write_bytes(data)
        parts.append({"file": f"part-1-{rank}.safetensors", "size": len(data), "xxh3": checksum(data), "tensors": []})
    index = {"format": 2, "step": step, "lease": 1, "state": {"stage": 1}, "parts": parts}
    (made / "index.json").write_text(sealed(index))


def test_checkpoints_of_the_format_before_are_read(folder: Path) -> None:
    as_before(folder, 3, tensors(), 3)
    newest, refused = checkpoint.find_latest(folder)
    assert newest is not None and newest.name == "000000003" and newest.state["stage"] == 1 and not refused
    for name, tensor in tensors().items():
        assert newest.tensors[name].dtype == tensor.dtype and torch.equal(newest.tensors[name], tensor)
    part = folder / "000000003" / "part-1-1.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    with pytest.raises(DamagedError, match=r"part-1-1.safetensors: cut short or changed"):
        dict(checkpoint.load(folder / "000000003")[0])


def test_a_reader_reads_what_it_asks_for_and_verifies_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 24 MB of three writers, a rank's fifth of each tensor, and as much again to verify a fifth of all."""
    content = {f"{i}": torch.randn(300, 1000, generator=torch.Generator().manual_seed(i)) for i in range(20)}
    write(folder, 1, content, 3)
    total, pread, read = sum(t.nbytes for t in content.values()), os.pread, [0]

    def counted(file: int, size: int, at: int) -> bytes:
        read[0] += size
        return pread(file, size, at)

    monkeypatch.setattr(os, "pread", counted)
    stored = checkpoint.load(folder / "000000001")[0]
    read[0], fifth = 0, 60_000
    for name in stored:
        assert torch.equal(stored.read(name, 2 * fifth, 3 * fifth), content[name].view(-1)[2 * fifth : 3 * fifth])
    assert total / 5 <= read[0] <= total / 5 + 2 * len(content) * CHUNK
    read[0] = 0
    PartFiles(stored.parts.parts).verify(1, 5)
    assert total / 5 - CHUNK <= read[0] <= total / 5 + 4 * CHUNK


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "index", "state", "format"])
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_is_used(folder: Path, damage: str) -> None:
    write(folder, 1, tensors(1))
    write(folder, 2, tensors(2))
    part = next((folder / "000000002").glob("*.safetensors"))
    data = bytearray(part.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        part.write_bytes(bytes(data))
    elif damage == "cut":
        part.write_bytes(bytes(data[:-1]))
    elif damage == "remove":
        part.unlink()
    else:
        index = folder / "000000002" / "index.json"
        whole = index.read_text()
        assert '"stage": 1' in whole
        texts = {"index": whole[:6], "state": whole.replace('"stage": 1', '"stage": 3'), "format": "{}"}
        index.write_text(texts[damage])
    with pytest.raises(DamagedError, match="000000002"):
        dict(checkpoint.load(folder / "000000002")[0])
    newest, refused = checkpoint.find_latest(folder)
    assert newest is not None and newest.name == "000000001" and list(refused) == ["000000002"]
    assert newest.state["step"] == 1
    assert torch.equal(newest.tensors["method.weight"], tensors(1)["method.weight"])


@pytest.mark.parametrize(("code", "file"), [(errno.ESTALE, "index.json"), (errno.EACCES, ".safetensors")])
def test_a_disk_that_does_not_give_a_file_says_nothing_of_the_checkpoint(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: int, file: str
) -> None:
    """No older checkpoint is taken for the newest."""
    write(folder, 1, tensors(1))
    write(folder, 2, tensors(2))
    look = Path.stat

    def refuse(path: Path, **how: Any) -> os.stat_result:
        if path.parent.name == "000000002" and path.name.endswith(file):
            raise OSError(code, os.strerror(code))
        return look(path, **how)

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(UserError, match=rf"000000002/.*cannot be read now .*{os.strerror(code)}") as error:
        checkpoint.find_latest(folder)
    assert not isinstance(error.value, DamagedError)


def test_nothing_whole_is_an_error_and_nothing_at_all_is_none(folder: Path) -> None:
    assert checkpoint.find_latest(folder) == (None, {})
    write(folder, 1, tensors())
    (folder / "000000001" / "index.json").unlink()  # a folder of this machine was renamed when it was whole
    with pytest.raises(DamagedError, match="no checkpoint is intact"):
        checkpoint.find_latest(folder)


def test_the_newest_and_the_best_of_each_stage_are_kept(folder: Path) -> None:
    writer = Checkpointer(folder, 2, 0, 1)
    best: dict[str, int] = {}
    for step, stage in [(1, "di"), (2, "di"), (3, None), (4, "dir"), (5, None), (6, None), (7, None)]:
        best |= {stage: step} if stage else {}
        writer.save(step, checkpoint.replicated({"x": torch.tensor(step)}), {}, best)
    writer.wait()
    assert [p.name for p in checkpoint.complete(folder)] == ["000000002", "000000004", "000000006", "000000007"]
    assert checkpoint.latest(folder.parent).name == "000000007"
    assert checkpoint.best(folder.parent, "di").name == "000000002"
    assert checkpoint.stages_with_best(folder.parent) == ["di", "dir"]
    with pytest.raises(UserError, match=r"BEST-dira.*BEST-di, BEST-dir"):
        checkpoint.best(folder.parent, "dira")


def test_pointers_lost_between_the_rename_and_their_writing_are_put_right(folder: Path) -> None:
    write(folder, 1, tensors(1), best={"di": 1})
    write(folder, 2, tensors(2), best={"di": 2})
    (folder / "LATEST").write_text("000000001")  # as a kill between the two leaves them
    (folder / "BEST-di").unlink()
    Checkpointer(folder, 9, 0, 1).update_pointers(2, {"di": 2, "dir": 77})
    assert checkpoint.latest(folder.parent).name == checkpoint.best(folder.parent, "di").name == "000000002"
    assert not (folder / "BEST-dir").exists()  # a pointer never names what is not there
    (folder / "BEST-dir").write_text("000000003")  # a stage's first best, damaged and set aside
    Checkpointer(folder, 9, 0, 1).update_pointers(2, {"di": 2})
    assert checkpoint.stages_with_best(folder.parent) == ["di"]


def test_an_unfinished_folder_of_another_lease_is_left_alone(folder: Path) -> None:
    never = partial(threading.Barrier(2).wait, 0.1)  # the ghost's other writer is no more
    ghost = Checkpointer(folder, 1, 1, 2, lease=1, gather=lambda _: [never()])
    heir = Checkpointer(folder, 1, 0, 1, lease=2)
    ghost.save(5, checkpoint.replicated(tensors(1)), {}, {})
    with pytest.raises(threading.BrokenBarrierError):
        ghost.wait()
    heir.save(5, checkpoint.replicated(tensors(2)), {}, {})
    heir.wait()
    assert torch.equal(checkpoint.load(folder / "000000005")[0]["method.weight"], tensors(2)["method.weight"])
    assert json.loads((folder / "000000005" / "index.json").read_text())["lease"] == 2


def test_a_half_written_checkpoint_is_never_seen_and_is_cleared(folder: Path) -> None:
    write(folder, 1, tensors())
    half = folder / "000000002.1.tmp"
    half.mkdir()
    (half / "part-00000-of-00002.json").write_text(json.dumps({"file": "x"}))
    assert [p.name for p in checkpoint.complete(folder)] == ["000000001"]
    checkpoint.clean_up(folder, ["000000001"])
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["000000001.damaged"]
    write(folder, 1, tensors())
    checkpoint.clean_up(folder, ["000000001"])  # damaged a second time
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == ["000000001.damaged", "000000001.damaged1"]


def test_what_a_dying_writer_still_does_does_not_hinder_the_clearing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes a file where all were just removed, and removes one itself, and what was just listed."""
    half, gone = folder / "000000002.1.tmp", folder / "000000001.1.tmp"
    half.mkdir()
    (half / "part").touch()
    rmdir, unlink, iterdir = os.rmdir, os.unlink, Path.iterdir

    def writes_again(*path: Any, **where: Any) -> None:
        with suppress(FileNotFoundError):
            (half / "late").touch()
        rmdir(*path, **where)

    def goes_first(*path: Any, **where: Any) -> None:
        unlink(*path, **where)
        unlink(*path, **where)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", writes_again)
        patch.setattr(os, "unlink", goes_first)
        patch.setattr(Path, "iterdir", lambda path: iter([*iterdir(path), *[gone] * (path == folder)]))
        checkpoint.clean_up(folder, [])
    assert list(folder.iterdir()) == []


def test_a_clearing_that_was_killed_is_finished_though_the_writer_came_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("000000003.1.tmp", "000000003.1.tmp.old.tmp"):
        (folder / name).mkdir()
        (folder / name / "part").touch()
    iterdir = Path.iterdir
    for backwards in (False, True):
        monkeypatch.setattr(Path, "iterdir", lambda path, order=backwards: iter(sorted(iterdir(path), reverse=order)))
        checkpoint.clean_up(folder, [])
        assert list(folder.iterdir()) == []


def saving(
    folder: Path, monkeypatch: pytest.MonkeyPatch, late: int, does: Callable[[], object], ranks: int = 3,
    alive: Callable[[int], None] = lambda rank: None,
) -> list[Checkpointer]:  # fmt: skip
    """Writers of a checkpoint that is under way. The one of rank ``late`` ``does`` that before it writes its part."""
    write_atomic = writer.write_atomic

    def write_part(path: Path, *rest: Any) -> None:
        if f"part-1-{late:05d}" in path.name:
            does()
        write_atomic(path, *rest)

    monkeypatch.setattr(writer, "write_atomic", write_part)
    monkeypatch.setattr(TIMINGS, "pulse", 0.05)
    gathers = enumerate(meeting(ranks))
    writers = [
        Checkpointer(folder, 1, rank, ranks, gather=gather, alive=partial(alive, rank)) for rank, gather in gathers
    ]
    for each in writers:
        each.save(1, checkpoint.replicated(tensors()), {}, {})
    return writers


def test_while_one_writer_works_all_know_that_all_live(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training of both waits; a sign of life comes of each second, of the quick writer too."""
    released, signs = threading.Event(), [0, 0]

    def alive(rank: int) -> None:
        signs[rank] += 1
        if min(signs) > 5:
            released.set()

    writers = saving(folder, monkeypatch, 1, lambda: released.wait(60), 2, alive)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Checkpointer.wait, writers))
    assert released.is_set() and [p.name for p in checkpoint.complete(folder)] == ["000000001"]


def test_a_writer_that_hangs_ends_the_run_of_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TIMINGS, "hang_after", 0.5)
    released = threading.Event()
    for each in saving(folder, monkeypatch, 2, lambda: released.wait(60)):
        with pytest.raises(NotSavedError, match=r"the checkpoint of step 1 is not written by rank\(s\) 2 after 0.5 s"):
            each.wait()
    released.set()
    assert checkpoint.complete(folder) == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("boom"), NotSavedError, "step 1 is not written: rank 1 on {host}: RuntimeError: boom"),
        (LeaseLostError("taken over"), LeaseLostError, "taken over"),
    ],
    ids=["unexpected", "ghost"],
)
def test_what_fails_on_one_rank_ends_all_with_one_message(
    folder: Path, error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Nobody waits for what does not come; the traceback of what nobody expected is shown where it was raised."""

    def fails() -> None:
        raise error

    messages = []
    for each in saving(folder, monkeypatch, 1, fails):
        with pytest.raises(kind) as raised:
            each.wait()
        messages.append(str(raised.value))
    assert len(set(messages)) == 1 and messages[0].endswith(message.format(host=socket.gethostname()))
    assert caplog.text.count("in fails") == (kind is NotSavedError)
    assert checkpoint.complete(folder) == []


SUSPENDED = """
import os, signal, sys, time
from pathlib import Path
import torch
from dira_scale.train.runs.checkpoint import Checkpointer, replicated, writer
from dira_scale.train.distributed.timings import TIMINGS

write_atomic, TIMINGS.pulse, TIMINGS.hang_after = writer.write_atomic, 0.1, 2

def suspended(path, *rest):
    if path.name.startswith("part"):
        os.kill(os.getpid(), signal.SIGSTOP)
        for _ in range(10):  # most of them after it
            time.sleep(0.05)
    write_atomic(path, *rest)

saver = Checkpointer(Path(sys.argv[1]), 9, 0, 1)
saver.save(1, replicated({"x": torch.ones(3)}), {}, {})
saver.wait()
writer.write_atomic = suspended
saver.save(2, replicated({"x": torch.ones(3)}), {}, {})
saver.raise_if_not_saved()
"""


@pytest.mark.system
def test_a_process_that_was_suspended_while_it_saved_is_not_late(folder: Path) -> None:
    with job([sys.executable, "-c", SUSPENDED, str(folder)]) as process:
        deadline = time.monotonic() + 120
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(2.5)  # longer than a disk may take
        process.send_signal(signal.SIGCONT)
        assert process.wait(120) == 0, process.printed()
    assert [p.name for p in checkpoint.complete(folder)] == ["000000001", "000000002"]


def test_a_slow_reader_is_waited_for_and_what_one_cannot_read_all_know(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By signs of life, each of which is waited for no longer than a collective may take."""
    monkeypatch.setattr(TIMINGS, "pulse", 0.05)
    readers = [Checkpointer(folder, 1, rank, 2, gather=gather) for rank, gather in enumerate(meeting(2))]

    def slowly(rank: int) -> str:
        deadline = time.monotonic() + 60
        while rank == 0 and min(each.long_work.signs_of_life for each in readers) < 5:  # the other one has long read it
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return f"read by {rank}"

    def damaged(rank: int) -> None:
        if rank:
            raise DamagedError("a bit is another")

    def hangs(rank: int) -> None:
        assert rank or released.wait(60)

    with ThreadPoolExecutor(2) as pool:

        def together_(read: Any) -> list[Any]:
            tasks = [pool.submit(each.read_on_all, partial(read, rank)) for rank, each in enumerate(readers)]
            return [task.exception(120) or task.result() for task in tasks]

        assert together_(slowly) == ["read by 0", "read by 1"]
        reported = together_(damaged)
        assert [type(error) for error in reported] == [AgreedError, AgreedError]
        assert {str(error) for error in reported} == {f"rank 1 on {socket.gethostname()}: a bit is another"}
        released = threading.Event()
        monkeypatch.setattr(TIMINGS, "hang_after", 0.5)
        reported = together_(hangs)
        released.set()
        assert [type(error) for error in reported] == [AgreedError, AgreedError]
        assert all("is not read by rank(s) 0 after 0.5 s: the disk or store hangs" in str(error) for error in reported)


def test_a_run_resumes_by_reads_that_all_wait_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take longer than processes wait for each other."""
    reading, called = [False], list[tuple[str, bool]]()

    def read_on_all(read: Callable[[], Any]) -> Any:
        reading[0] = True
        result = read()
        reading[0] = False
        return result

    def step(name: str, result: Any = None) -> Any:
        return lambda *_: (called.append((name, reading[0])), result)[1]

    def find(folder: Path, rank: int, ranks: int, on_all: Callable[..., Any]) -> Any:
        return on_all(step("find", (Newest("000000003", Kept({}), {"step": 3}), {})))

    parts = {"checkpointer": SimpleNamespace(folder=folder, read_on_all=read_on_all), "task": None}
    parts |= {"strategy": SimpleNamespace(module=None), "world": SimpleNamespace(rank=0, ranks=1)}
    run: Any = SimpleNamespace(**parts, _rewind_run=step("rewind"), _clean_up=step("clean"))
    monkeypatch.setattr(loop.checkpoint, "find_latest", find)
    monkeypatch.setattr(loop, "restore", step("restore"))
    loop.Loop._resume(run)
    assert called == [(name, True) for name in ("find", "clean", "restore", "rewind")] and run.state.step == 3
