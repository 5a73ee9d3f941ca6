"""A command writes, replaces and deletes only names of its own, in a folder that is new, empty or marked as its own."""

import errno
import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from dira_scale import plan, report
from dira_scale.archive.output import check_output, finished
from dira_scale.archive.phantom import folder as phantoms
from dira_scale.base.errors import UserError
from dira_scale.base.storage import atomic, owned
from dira_scale.base.storage.atomic import machine_tag, open_new, write_atomic
from dira_scale.base.storage.owned import GENERATOR, MARK, SWEEP_PAGE, check_own, own, own_file
from dira_scale.export.formats import replace_export
from dira_scale.judge.evaluation import embeddings as embeddings
from dira_scale.predict.tables import write_rejected_names
from dira_scale.shard.commands import stats
from dira_scale.shard.curate.audit.report import AuditReport
from dira_scale.train.runs.checkpoint import clean_up
from dira_scale.train.runs.complete import numbered
from dira_scale.train.runs.folder import RunFolder

RUN: dict[str, Any] = {"checkpoint": {"folder": None}, "seed": 0}


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
    "unfinished dataset": (lambda f: finished(f, {}), (".partial/thesis.txt",), "out"),
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
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match=f"^out={tmp_path} holds what another command wrote .run, not predictions."):
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
    monkeypatch.setattr("dira_scale.shard.curate.stats.Stats", lambda dataset: None)
    monkeypatch.setattr("dira_scale.dataset.manifest.ShardedDataset.open", lambda path: None)
    write, (suffix,) = FILES[command][0], FILES[command][1] or (".html",)
    (tmp_path / f"mine{suffix}").write_text("<!doctype html><p>mine")
    (tmp_path / "config.yaml").write_text("{}")  # as a run has
    before = tree(tmp_path)
    try:
        assert write(tmp_path / f"mine{suffix}") == 2
        printed = capsys.readouterr().err
    except UserError as error:
        printed = str(error)
    assert f"{tmp_path}/mine{suffix} would be replaced, and this command" in printed and tree(tmp_path) == before


def test_links_that_leave_a_folder_are_not_followed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    elsewhere.mkdir()
    RunFolder(run, RUN).release()
    (run / "export").symlink_to(elsewhere)
    with pytest.raises(UserError, match="export is a link that leaves"):
        check_own(run / "export", "an export", "out", within=run)
    # Files, too, which are appended to; also those that do not exist yet, and in folders below.
    for name in ("export", "log.txt", "leases/lost"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(elsewhere / name)
        with pytest.raises(UserError, match=f"{name} is a link that leaves this folder"):
            RunFolder(run, RUN)
        (run / name).unlink()
    (run / "export").symlink_to(elsewhere)
    (elsewhere / "picture.png").write_bytes(b"mine")
    (run / "picture.png").symlink_to(elsewhere / "picture.png")
    write_atomic(run / "picture.png", b"ours")
    assert (elsewhere / "picture.png").read_bytes() == b"mine" and not owned.is_inside(run / "export", run)


def test_tables_beside_an_output_replace_no_others(tmp_path: Path) -> None:
    """OUT.rejected.csv and NAME.audit.csv: neither a file of the user's, nor what a link leads to."""
    mine = tmp_path / "mine.csv"
    mine.write_text("my thesis")
    takes = {
        "a.rejected.csv": lambda: check_output(tmp_path / "a", None),
        "a.audit.csv": lambda: AuditReport(tmp_path / "a"),
    }
    for (name, take), link in product(takes.items(), (False, True)):
        (tmp_path / name).symlink_to(mine) if link else shutil.copy(mine, tmp_path / name)
        with pytest.raises(UserError, match=f"{name} would be replaced, and this command has not written it"):
            take()
        (tmp_path / name).unlink()
    for _ in range(2):  # their own they replace
        write_rejected_names(tmp_path / "a", [("=1", {"stage": "read", "reason": "none"})])
        check_output(tmp_path / "a", None)
    written = tmp_path / "a.rejected.csv"
    assert written.read_text().splitlines()[1:] == ["'=1,read,none"] and written.stat().st_mode & 0o777 == 0o600
    (tmp_path / ".a.part").symlink_to(mine)
    with open_new(tmp_path / ".a.part") as file:
        file.write(b"ours")
    assert mine.read_text() == "my thesis"


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(UserError, match=f"^out={tmp_path}/a is a file: name a folder"):
        own(tmp_path / "a", "an export", "out")
    with pytest.raises(UserError, match=f"^out={tmp_path} is a folder: name a file in it"):
        own_file(tmp_path, "out")


def test_a_page_of_another_kind_does_not_free_the_tables_beside_it(tmp_path: Path) -> None:
    """A run's page has no tables: what lies beside it is the user's."""
    page, table = tmp_path / "page.html", tmp_path / "page.tex"
    page.write_text(f"<head>{GENERATOR}</head>")
    table.write_text("my thesis")
    with pytest.raises(UserError, match=r"page.html would be replaced"):
        own_file(page, "out", SWEEP_PAGE, beside=(table,))
    page.write_text(f"<head>{SWEEP_PAGE}</head>")
    own_file(page, "out", SWEEP_PAGE, beside=(table,))


def test_only_checkpoints_are_checkpoints(tmp_path: Path) -> None:
    """A folder named by a date was taken for a damaged one, and `*.tmp` of anybody was deleted."""
    for name in ("20190417", "000000005", "thesis.tmp", "000000004.2.tmp", "20201124203300", "0000000001"):
        (tmp_path / name).mkdir()
    assert [path.name for path in numbered(tmp_path)] == ["000000005"]
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
