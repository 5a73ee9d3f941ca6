"""A command writes, replaces and deletes only names of its own, in a folder that is new, empty or marked as its own."""

import errno
import hashlib
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dira_scale import plan, report
from dira_scale.curation.commands import stats
from dira_scale.errors import UserError
from dira_scale.evaluation.embedding import folder as embeddings
from dira_scale.ingest.output import finished
from dira_scale.models.formats import replace_export
from dira_scale.phantom import folder as phantoms
from dira_scale.places import atomic, owned
from dira_scale.places.atomic import machine_tag, write_atomic
from dira_scale.places.owned import MARK, check_own, own
from dira_scale.runs.checkpoint import clean_up
from dira_scale.runs.complete import numbered
from dira_scale.runs.folder import RunFolder

RUN: dict[str, Any] = {"checkpoint": {"folder": None}, "seed": 0}
ABOUT = embeddings.About


def tree(folder: Path) -> dict[str, str]:
    """Every file, folder and link below, with its content."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }  # fmt: skip


def draw(folder: Path) -> None:
    phantoms.fill(folder, {}, 1, lambda _: None, lambda *_: None, lambda _: {})


# What writes a folder, the names of its own, and the key that names it.
FOLDERS: dict[str, tuple[Callable[[Path], Any], tuple[str, ...], str]] = {
    "run": (lambda f: RunFolder(f, RUN), ("metrics.jsonl", "status.json", "environment.json", "config.yaml"), "run"),
    "checkpoints": (
        lambda f: RunFolder(f.with_name("run"), {"checkpoint": {"folder": str(f)}}),
        ("thesis.tmp", "LATEST", "000000001/index.json"), "checkpoint.folder",
    ),
    "export": (
        lambda f: replace_export(f, {"a.safetensors": b""}, "card"),
        ("config.json", "model.safetensors", "README.md"), "out",
    ),
    "embeddings": (lambda f: embeddings.claim(f, None), (".mine.tmp", "part-000000.parquet"), "out"),  # type: ignore[arg-type]
    "phantoms": (draw, ("labels.csv", "other.json"), "recipe.images"),
    "dataset": (lambda f: finished(f, {}), (".partial/mine.txt", "notes.txt"), "out"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_the_users_is_refused_and_stays_as_it_was(kind: str, tmp_path: Path) -> None:
    write, names, key = FOLDERS[kind]
    folder = tmp_path / "mine"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=f"^{key}={folder} (holds files that|is not empty)"):
        write(folder)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["run", "checkpoints", "export"])
def test_a_new_an_empty_and_an_own_folder_are_taken(kind: str, tmp_path: Path) -> None:
    write = FOLDERS[kind][0]
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "empty"):
        written = write(tmp_path / name)
        if isinstance(written, RunFolder):
            written.release()
    assert (tmp_path / "empty" / MARK).is_file()


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    own(tmp_path, "run", "run")
    with pytest.raises(UserError, match=f"^out={tmp_path} is a folder of run, not of predictions"):
        own(tmp_path, "predictions", "out")


FILES: dict[str, tuple[Callable[[Path], int], tuple[str, ...]]] = {
    "report": (lambda f: report.main([f"run={f.parent}", f"out={f}"]), ()),
    "sweep's page": (lambda f: report.main([f"folder={f.parent}", f"out={f.with_suffix('.html')}"]), (".csv",)),
    "plan": (lambda f: plan.main(["experiment=small", f"plan.json={f}"]), ()),
    "stats": (lambda f: stats(OmegaConf.create({"path": str(f.parent), "page": str(f)})), ()),
}


@pytest.mark.parametrize("command", FILES)
def test_a_file_of_the_users_is_not_replaced(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dira_scale.curation.stats.Stats", lambda dataset: None)
    monkeypatch.setattr("dira_scale.data.manifest.ShardedDataset.open", lambda path: None)
    write, (suffix,) = FILES[command][0], FILES[command][1] or (".html",)
    (tmp_path / f"mine{suffix}").write_text("<!doctype html><p>mine")
    before = tree(tmp_path)
    try:
        assert write(tmp_path / f"mine{suffix}") == 2
        said = capsys.readouterr().err
    except UserError as error:
        said = str(error)
    assert f"this command has not written {tmp_path}/mine{suffix}" in said and tree(tmp_path) == before


def test_links_that_leave_a_folder_are_not_followed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    RunFolder(run, RUN).release()
    (run / "export").symlink_to(elsewhere)
    with pytest.raises(UserError, match="export is a link that leaves"):
        check_own(run / "export", "an export", "out", within=run)
    with pytest.raises(UserError, match="export is a link that leaves this folder"):
        RunFolder(run, RUN)
    (elsewhere / "picture.png").write_bytes(b"mine")
    (run / "picture.png").symlink_to(elsewhere / "picture.png")
    write_atomic(run / "picture.png", b"ours")
    assert (elsewhere / "picture.png").read_bytes() == b"mine" and not owned.is_inside(run / "export", run)


def test_only_checkpoints_are_checkpoints(tmp_path: Path) -> None:
    """A folder named by a date was taken for a damaged one, and `*.tmp` of anybody was deleted."""
    for name in ("20190417", "000000005", "thesis.tmp", "000000004.2.tmp", "1000000000", "0000000001"):
        (tmp_path / name).mkdir()
    assert [path.name for path in numbered(tmp_path)] == ["000000005", "1000000000"]
    clean_up(tmp_path, [])
    assert not (tmp_path / "000000004.2.tmp").exists() and (tmp_path / "thesis.tmp").exists()


def test_unfinished_files_of_killed_processes_are_removed_by_the_next_call(tmp_path: Path) -> None:
    own(tmp_path, "run", "run")
    (tmp_path / "leases").mkdir()
    gone = multiprocessing.get_context("fork").Process(target=os.getpid)
    gone.start()
    gone.join(60)
    kept = (f".a.{machine_tag()}.{os.getpid()}.1.tmp", f".a.00000000.{gone.pid}.1.tmp", ".notes.tmp", "a.tmp")
    for name in (*kept, f"leases/.000001.json.{machine_tag()}.{gone.pid}.139.tmp"):
        (tmp_path / name).write_text("half")
    own(tmp_path, "run", "run")
    assert {path.name for path in tmp_path.rglob("*.tmp")} == {*kept}


def test_a_disk_without_a_byte_is_one_line_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RunFolder(tmp_path, RUN).release()
    before = (tmp_path / "status.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match=r"No space left on device\). Free some space, .*; status.json stands"):
        RunFolder(tmp_path, RUN)
    assert (tmp_path / "status.json").read_bytes() == before
