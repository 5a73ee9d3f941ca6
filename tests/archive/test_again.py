"""A command is run again: after a kill, after Ctrl-C, on a finished dataset, on one that is damaged or has changed; and
``shard repair``: broken shards are written again and nothing else, what cannot be as it was is refused."""

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from archive import ingest
from forked import Forked, Started
from harness import job
from here import Here
from PIL import Image

from dira_scale.archive import splits, writer
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.convert import convert, list_files
from dira_scale.shard.repair import repair


@contextmanager
def started(words: list[str], shards: int) -> Iterator[Forked | Started]:
    """A conversion in a process of its own, when it is at work and has finished that many shards."""
    work = Path(words[-1].removeprefix("out=")) / ".partial"
    with job([sys.executable, "-m", "dira_scale.shard", *words]) as process:
        deadline = time.monotonic() + 120
        while not work.exists() or len(list(work.glob("*-*.parquet"))) < shards:
            assert process.poll() is None and time.monotonic() < deadline, "it ended, or took more than two minutes"
            time.sleep(0.002)
        yield process


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_interrupted_and_run_again_is_byte_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C, by the end of a worker, or of the parent alone, which leaves what the end of all does; each goes on
    with what is left of the one before."""
    (tmp_path / "images").mkdir()
    for number in range(60):
        Image.fromarray(ingest.picture(number, 200, 200)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG")
    words = ["recipe=folder", f"recipe.images={tmp_path / 'images'}", "recipe.shard_size=2", "workers=2"]
    words.append("recipe.name=pictures")  # not that of out: two are compared
    out = tmp_path / "out"

    def finished() -> set[str]:
        return {path.name for path in (out / ".partial").glob("*-*.parquet")}

    with started([*words, f"out={out}"], shards=1) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 75, process.printed()
        assert "run the same command again" in process.printed() and "Traceback" not in process.printed()
    before = finished()
    assert before

    with started([*words, f"out={out}"], shards=len(before) + 1) as process:
        forked = psutil.Process(process.pid).children(recursive=True)
        next(child for child in forked if child.ppid() != process.pid).kill()
        assert process.wait(60) == 2, process.printed()
        assert "a worker process died" in process.printed() and "Traceback" not in process.printed()
    assert finished() > before

    with started([*words, f"out={out}"], shards=len(finished()) + 1) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        deadline = time.monotonic() + 60
        while any(map(lives, children)):
            assert time.monotonic() < deadline, "workers outlive their parent"
            time.sleep(0.01)
    assert not (out / "manifest.parquet").exists()

    monkeypatch.setattr(writer, "worker_pool", Here)  # however many do it, by the same command
    assert main([*words, f"out={out}"]) == 0
    assert main([*words, f"out={tmp_path / 'unbroken'}"]) == 0
    assert ingest.contents(out) == ingest.contents(tmp_path / "unbroken")


def test_a_finished_dataset_is_left_alone_and_another_recipe_refused(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    config, out = ingest.recipe("folder", **ingest.source_of(png_folder)), tmp_path / "out"
    convert(config, out, workers=1)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    moved = png_folder.rename(tmp_path / "moved")  # another place is not another source
    config = ingest.recipe("folder", **ingest.source_of(moved))
    convert(config, out, workers=1)
    assert "is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match="max_side: null there, 40 here"):
        convert(config | {"max_side": 40}, out, workers=1)
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", "another key for tests only")
    with pytest.raises(UserError, match=r"hash_key: .* made with another hash key, see key_file"):
        convert(config, out, workers=1)


def test_a_source_that_has_changed_is_told_by_list_alone(png_folder: Path, tmp_path: Path, capsys) -> None:
    config, out = ingest.recipe("folder", **ingest.source_of(png_folder)), tmp_path / "out"
    (png_folder / "images" / "stray.png").write_text("named by no row, so its coming and going changes nothing")
    convert(config, out, workers=1)
    table, listed = (png_folder / "labels.csv"), (png_folder / "labels.csv").read_text()
    list_files(config, out, workers=1)
    assert "has not changed" in capsys.readouterr().out

    def refused(words: str) -> None:
        with pytest.raises(UserError, match=f"source has changed since .*{words}.*choose another out, or delete"):
            list_files(config, out, workers=1)
        convert(config, out, workers=1)  # which lists nothing
        assert "is complete" in capsys.readouterr().out

    Image.fromarray(ingest.picture(30)).save(png_folder / "images" / "im30.png")
    table.write_text(listed + "im30.png,P0,1,,\n")
    refused(r"\(1 images added\)")
    table.write_text(listed.replace("im04.png", "im30.png"))
    refused(r"\(1 images added, 1 images removed\)")
    for changed in (listed.replace("im03.png,P3,1,1", "im03.png,P3,0,1"), listed.replace("nodule", "lump")):
        table.write_text(changed)
        refused("labels and their names, patients, splits, boxes, masks or files")
    table.write_text(listed)
    Image.fromarray(ingest.picture(3, 60, 60)).save(png_folder / "images" / "im03.png")
    refused("files")


def test_unfinished_work_is_only_gone_on_with_on_the_same_inputs(
    png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out = ingest.recipe("folder", **ingest.source_of(png_folder)), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("dira_scale.shard.convert.finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            convert(config, out, workers=1)
    with pytest.raises(UserError, match=r"unfinished conversion of another recipe .*min_side: 32 there, 16 here"):
        convert(config | {"min_side": 16}, out, workers=1)
    table = (png_folder / "labels.csv").read_text()
    (png_folder / "labels.csv").write_text(table.replace("im03.png,P3", "im03.png,P4"))
    with pytest.raises(UserError, match="have changed since"):
        convert(config, out, workers=1)
    (png_folder / "labels.csv").write_text(table)
    (state,) = (out / ".partial").glob("val-*.parquet")
    with pytest.raises(UserError, match="begun by an older version"):
        convert(config, out, workers=1) if state.rename(state.with_suffix(".json")) else None
    state.with_suffix(".json").rename(state)
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(UserError, match=rf"{state.name} is damaged.*delete it"):
        convert(config, out, workers=1)
    state.unlink()
    convert(config, out, workers=1)
    assert ShardedDataset.open(out)


def test_a_dataset_keeps_the_size_of_its_shards(
    png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever would be chosen today, begun or finished."""
    config, out = ingest.recipe("folder", **ingest.source_of(png_folder)), tmp_path / "out"
    assert config["shard_size"] is None
    for name, value in {"STANDARD": 2, "MANY": 5, "LANES": 2}.items():
        monkeypatch.setattr(splits, name, value)
    convert(config, out, workers=1, share="1/2")
    begun = json.loads((out / ".partial" / "plan.json").read_text())["recipe"]["shard_size"]
    monkeypatch.undo()
    convert(config, out, workers=1)
    dataset = ShardedDataset.open(out)
    most = Counter(dataset.column("shard")).most_common(1)[0][1]
    assert dataset.info.recipe["shard_size"] == begun == most > 2
    convert(config, out, workers=1)


def flip(path: Path, location: int) -> None:
    content = bytearray(path.read_bytes())
    content[location] ^= 1
    path.write_bytes(content)


def test_only_what_is_broken_is_written_again_byte_for_byte(
    png_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    config, out = ingest.recipe("folder", shard_size=3, **ingest.source_of(png_folder)), tmp_path / "out"
    convert(config, out, workers=1)
    whole = ingest.contents(out)
    assert repair(config, out, workers=1) == [] and "every checksum matches" in capsys.readouterr().out
    shards = sorted(path for path in out.glob("*.tar"))
    gone, cut, flipped, *kept = shards
    gone.unlink()
    with pytest.raises(UserError, match=rf"{gone.name} is missing.*shard repair"):
        convert(config, out, workers=1)
    cut.write_bytes(cut.read_bytes()[:-512])
    flip(flipped, 100)  # in a tar header's padding: no image, no label, no checksum of a sample has it
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert repair(config, out, 1, slice_="1/3") == [cut.name]  # the first of the description's
    assert sorted(repair(config, out, workers=1)) == [path.name for path in (gone, flipped)]
    assert ingest.contents(out) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    printed = capsys.readouterr().out
    assert f"{gone.name}: missing" in printed and f"{flipped.name}: another checksum" in printed
    assert "instead of" in printed
    (out / "dataset.json").write_text("{")
    with pytest.raises(UserError, match=r"dataset.json is damaged.*Delete .*, then run the same command again"):
        convert(config, out, workers=1)


def test_another_source_or_recipe_repairs_nothing(png_folder: Path, tmp_path: Path) -> None:
    config, out = ingest.recipe("folder", shard_size=3, **ingest.source_of(png_folder)), tmp_path / "out"
    convert(config, out, workers=1)
    for path in out.glob("*.tar"):
        flip(path, 700)
    broken = ingest.contents(out)
    with pytest.raises(UserError, match=r"another recipe .*min_side"):
        repair(config | {"min_side": 16}, out, workers=1)
    image = png_folder / "images" / "im10.png"
    size = image.stat().st_size
    Image.linear_gradient("L").resize((40, 48)).save(image)  # listing cannot tell it from the one before:
    image.write_bytes(image.read_bytes().ljust(size, b"\0"))
    assert image.stat().st_size == size
    with pytest.raises(UserError, match=r"came out different: an image or mask was replaced by one of the same size"):
        repair(config, out, workers=1)
    image.unlink()
    with pytest.raises(UserError, match="source has changed"):
        repair(config, out, workers=1)
    now = ingest.contents(out)
    assert all(now[name] == content for name, content in broken.items() if not name.endswith(".tar"))
