"""Checkpoints in an object store, which cannot rename: the index, written last, makes one. And stores that refuse."""

import errno
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path, PosixPath
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from train.runs.writers import write

from dira_scale.base.config.trust import allow
from dira_scale.base.errors import UserError
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.checkpoint import Checkpointer, NotSavedError, pointers, writer
from dira_scale.train.runs.folder import RunFolder
from dira_scale.train.runs.lease import LeaseLostError


@pytest.fixture
def url() -> Iterator[str]:
    """A run's URL in a store in memory; tests/system/test_s3.py has one in S3."""
    yield "memory://bucket/run"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def run(url: str, tmp_path: Path) -> Path:
    """A run folder whose configuration names the store."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(f"checkpoint: {{folder: '{url}'}}")
    allow([url])
    checkpoint.locate_folder(tmp_path / "run", url).mkdir(parents=True)
    return tmp_path / "run"


def save(folder: Path, step: int, world: int = 1, keep: int = 9, best: dict[str, int] | None = None) -> None:
    content = {name: torch.full((100,), step + i) for i, name in enumerate(("method.a", "method.b"))}
    write(folder, step, content, world, keep, best)


@pytest.mark.parametrize("world", [1, 3])
def test_what_was_saved_is_found_through_the_run_and_loaded(run: Path, world: int) -> None:
    for step in (1, 2, 3, 4):
        save(checkpoint.find_folder(run), step, world, keep=2, best={"di": 1})
    assert [path.name for path in checkpoint.complete(checkpoint.find_folder(run))] == [f"{s:09d}" for s in (1, 3, 4)]
    assert checkpoint.stages_with_best(run) == ["di"] and checkpoint.best(run, "di").name == "000000001"
    tensors, state = checkpoint.load(checkpoint.latest(run))
    assert state == {"stage": 1, "step": 4}
    assert torch.equal(tensors["method.b"], torch.full((100,), 5))
    with pytest.raises(UserError, match="BEST-dira does not exist; this run has BEST-di, LATEST"):
        checkpoint.best(run, "dira")


def test_without_its_index_nothing_is_there_and_it_is_cleared(run: Path) -> None:
    folder = checkpoint.find_folder(run)
    save(folder, 1)
    save(folder, 2)
    (folder / "000000002" / "index.json").unlink()  # as before the last write
    newest, refused = checkpoint.find_latest(folder)
    assert newest is not None and newest.name == "000000001" and not refused
    checkpoint.clean_up(folder, [])
    assert [path.name for path in folder.iterdir() if path.name.isdigit()] == ["000000001"]


def test_a_damaged_one_is_refused_by_name_and_set_aside(run: Path) -> None:
    folder = checkpoint.find_folder(run)
    save(folder, 1)
    save(folder, 2)
    part = next(path for path in (folder / "000000002").iterdir() if path.name.endswith(".safetensors"))
    content = part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    newest, refused = checkpoint.find_latest(folder)
    assert newest is not None and newest.name == "000000001" and "cut short or changed" in refused["000000002"]
    checkpoint.clean_up(folder, refused)
    aside = folder / "000000002.damaged"
    assert sorted(path.name for path in aside.iterdir()) == ["index.json", part.name]
    assert [path.name for path in checkpoint.complete(folder)] == ["000000001"]
    save(folder, 2)
    dict(checkpoint.load(folder / "000000002")[0])


def test_a_store_that_does_not_answer_damages_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoint.find_folder(run)
    save(folder, 1)

    def unreachable(*_: Any, **__: Any) -> bytes:
        raise ConnectionError("no route to the store")

    monkeypatch.setattr(type(folder), "read_bytes", unreachable)
    with pytest.raises(UserError, match=r"cannot be read now .*no route to the store") as error:
        checkpoint.find_latest(folder)
    assert not isinstance(error.value, checkpoint.DamagedError)


def config(url: str | None, seed: int = 0) -> dict[str, Any]:
    return {"seed": seed, "checkpoint": {"folder": url, "keep": 2}, "datasets": ["abc"]}


def test_a_run_of_another_identity_is_refused_wherever_its_folder_lies(url: str, tmp_path: Path) -> None:
    first = RunFolder(tmp_path / "a", config(url))
    save(first.checkpoints, 1)
    first.release()
    with pytest.raises(UserError, match="seed: 0 -> 1"):
        RunFolder(tmp_path / "elsewhere", config(url, seed=1))
    again = RunFolder(tmp_path / "elsewhere", config(url))  # the first folder's machine is gone
    assert [path.name for path in checkpoint.complete(again.checkpoints)] == ["000000001"]
    again.release()


def test_checkpoints_left_behind_are_not_forgotten(url: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a", config(None))
    save(run.checkpoints, 1)
    run.release()
    with pytest.raises(UserError, match=rf"has its checkpoints in .*a/checkpoints, not in {url}: copy them"):
        RunFolder(tmp_path / "a", config(url))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nowhere://bucket", "checkpoint.folder=nowhere://bucket: "),
        ("/proc/nothing", "checkpoint.folder=/proc/nothing"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_clear_line(url: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        RunFolder(tmp_path / "a", config(url))


REFUSALS: list[tuple[str, Callable[[], Exception], str]] = [
    ("disk", lambda: OSError(errno.ENOSPC, "No space left on device"), "Free some space"),
    ("disk", lambda: OSError(errno.EIO, "Input/output error"), "Fix the disk"),
    ("disk", lambda: OSError(errno.EROFS, "Read-only file system"), "Allow this user to write there"),
    ("store", lambda: RuntimeError("NoCredentialsError"), "Fix the store, access to it or the network"),
    ("store", lambda: PermissionError("Forbidden"), "Allow this user to write there"),
]


@pytest.mark.parametrize(("kind", "error", "remedy"), REFUSALS, ids=["full", "broken", "closed", "unknown", "denied"])
@pytest.mark.parametrize("what", ["write_atomic", "publish"])
def test_what_is_refused_costs_one_checkpoint_only(
    what: str, kind: str, error: Callable[[], Exception], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint.locate_folder(tmp_path, None if kind == "disk" else f"memory://{tmp_path}/bucket")
    folder.mkdir(parents=True)
    saver, pieces = Checkpointer(folder, 2, 0, 1), checkpoint.replicated({"x": torch.ones(3)})
    saver.save(1, pieces, {}, {})
    saver.wait()

    def refuse(*_: Any) -> None:
        raise error()

    with monkeypatch.context() as patch:
        patch.setattr(writer, what, refuse)
        saver.save(2, pieces, {}, {"di": 2})
        saver.wait()
    assert saver.failed.startswith("the checkpoint of step 2 could not be written (") and str(error()) in saver.failed
    assert saver.take_warnings() == [f"{saver.failed}; training continues"] and saver.take_warnings() == []
    with pytest.raises(
        NotSavedError, match=rf"of step 2 could not be written .*\. {remedy}, then run the same command again"
    ):
        saver.raise_if_not_saved()
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["000000001"]  # nor half of it
    saver.save(3, pieces, {}, {"di": 2})
    saver.raise_if_not_saved()
    assert [path.name for path in checkpoint.complete(folder)] == ["000000001", "000000003"]
    assert not (folder / "BEST-di").exists() and saver.take_warnings() == []


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    result = checkpoint.locate_folder(tmp_path, None if request.param == "disk" else f"memory://{tmp_path}/bucket")
    result.mkdir(parents=True)
    return result


# After which moment of a save another holder takes the run over, and what of it is there by then.
TAKEN_OVER = {
    "parts written": [],
    "index written": ["in a store"],
    "refused": [],
    "published": ["index"],
    "published, with a pointer to nothing": ["index"],
    "LATEST written": ["index", "LATEST"],
}


@pytest.mark.parametrize("moment", TAKEN_OVER)
def test_a_ghost_writes_and_removes_nothing_after_it_is_taken_over(
    folder: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whatever moment of the save, wherever the checkpoints lie."""
    lost, removed, there = [], [], TAKEN_OVER[moment]

    def check_lease() -> None:
        if lost:
            raise LeaseLostError("taken over")

    ghost, pieces = Checkpointer(folder, 1, 0, 1, check_lease=check_lease), checkpoint.replicated({"x": torch.ones(3)})
    ghost.save(1, pieces, {}, {})
    ghost.wait()
    stale = folder / "BEST-dir"
    if "nothing" in moment:
        stale.write_text("000000009")

    def lost_after(module: Any, name: str, fails: bool = False, path: str = "") -> None:
        real = getattr(module, name)

        def does(*arguments: Any) -> Any:
            result = None if fails else real(*arguments)
            if str(arguments[0]).endswith(path):
                lost.append(name)
            if fails:
                raise OSError(errno.EIO, "the store is gone")
            return result

        monkeypatch.setattr(module, name, does)

    match moment.split(",")[0]:
        case "parts written":
            lost_after(writer, "sealed")
        case "index written":
            lost_after(import_module("dira_scale.train.runs.checkpoint.folder"), "write_atomic", path="index.json")
        case "LATEST written":
            lost_after(pointers, "write_atomic", path="LATEST")
        case _:
            lost_after(writer, "publish", fails=moment == "refused")
    monkeypatch.setattr(writer, "remove", removed.append)
    ghost.save(2, pieces, {}, {})
    with pytest.raises(LeaseLostError, match="taken over"):
        ghost.wait()
    assert removed == [] and stale.exists() == ("nothing" in moment)
    new = "index" in there or ("in a store" in there and not isinstance(folder, PosixPath))
    assert [path.name for path in checkpoint.complete(folder)] == ["000000001", *(["000000002"] if new else [])]
    assert (folder / "LATEST").read_text() == ("000000002" if "LATEST" in there else "000000001")


def test_a_refusal_on_one_rank_is_known_to_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    write_atomic = writer.write_atomic

    def refuse(path: Path, *rest: Any) -> None:
        if "part-1-00001" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomic(path, *rest)

    monkeypatch.setattr(writer, "write_atomic", refuse)
    with pytest.raises(NotSavedError, match="of step 1 could not be written"):
        save(tmp_path / "checkpoints", 1, world=3)
    assert list((tmp_path / "checkpoints").iterdir()) == []
