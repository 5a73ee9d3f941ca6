"""Faults, by doing them: processes killed, a full disk, inputs that vanish, shrink or change midway."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from archive import ingest
from here import Here
from PIL import Image

from dira_scale.archive import writer
from dira_scale.base.errors import UserError
from dira_scale.base.storage.store import open_file
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.convert import convert


def command(folder: Path, out: Path, images: int) -> list[str]:
    """A conversion of many small shards, by two workers."""
    if not (folder / "images").exists():
        (folder / "images").mkdir()
        for number in range(images):
            Image.fromarray(ingest.picture(number, 200, 200)).save(folder / "images" / f"{number}.png")
        (folder / "images" / "broken.png").write_bytes(b"\x89PNG")
    recipe = ["recipe=folder", "recipe.name=disk", f"recipe.images={folder / 'images'}", "recipe.shard_size=4"]
    recipe.append("workers=2")
    return [sys.executable, "-m", "dira_scale.shard", *recipe, f"out={out}"]


def kill(process: subprocess.Popen, whom: str) -> None:
    """SIGKILL to the parent, to one of its workers, or to all at once."""
    if whom == "worker":
        forked = psutil.Process(process.pid).children(recursive=True)
        children = [c for c in forked if c.ppid() != process.pid]
        if children:
            random.choice(children).kill()
            process.wait(60)  # one line, not a hang
            return
    if whom == "group":
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait(60)


def stumble(words: list[str], out: Path, kills: int, seconds: float) -> list[tuple[str, int]]:
    """Start the command and kill it until it has been killed so often: whom, and how many shards were finished then.

    Half of the kills come at a random moment of its first ``seconds``, in which it mostly starts and lists; half soon
    after it has finished up to three more shards, so that it gets on, to its end and then again from the beginning.
    """
    dice, killed = random.Random(kills), list[tuple[str, int]]()

    def finished() -> int:
        return len(list((out / ".partial").glob("*-*.parquet")))

    while len(killed) < kills:
        more, moment, before = dice.choice([0, 0, 0, 1, 2, 3]), dice.random(), finished()
        process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 120
            while more and finished() < before + more and process.poll() is None:
                assert time.monotonic() < deadline, "no shard was finished"
                time.sleep(0.005)
            process.wait(0.2 * moment if more else seconds * moment)
        except subprocess.TimeoutExpired:
            whom = dice.choice(["worker", "parent", "group"])
            kill(process, whom)
            killed.append((whom, finished()))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(60)
        if (out / "manifest.parquet").exists() and len(killed) < kills:
            shutil.rmtree(out)
    return killed


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kills", [50])  # one kill of each kind: test_again.py
def test_killed_at_random_moments_and_run_again_is_byte_identical(tmp_path: Path, kills: int) -> None:
    unbroken, out = tmp_path / "unbroken", tmp_path / "killed"
    began = time.monotonic()
    assert subprocess.run(command(tmp_path, unbroken, 120), timeout=300).returncode == 0
    seconds, began = time.monotonic() - began, time.monotonic()
    killed = stumble(command(tmp_path, out, 120), out, kills, seconds)
    print(f"killed {killed} in {time.monotonic() - began:.0f} s")
    quarters = {done // 8 for _, done in killed}  # of 32 shards
    assert {0, 1, 2, 3} <= quarters, "the kills are not spread over the whole conversion"
    assert subprocess.run(command(tmp_path, out, 120), timeout=300).returncode == 0
    assert ingest.contents(out) == ingest.contents(unbroken)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Half a MB, full when it is full."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", folder], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_one_error_and_the_same_command_goes_on(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = small_disk / "out"
    words = command(tmp_path, out, 32)  # 1 MB
    monkeypatch.setattr(writer, "worker_pool", Here)
    assert main(words[3:]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "No space left on device" in line and "finished shards are kept" in line
    states = {path.stem for path in (out / ".partial").glob("*-*.parquet")}
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.tar") if path.stem in states}
    assert kept and not list((out / ".partial").glob("*.tar")), "half a shard is left on the full disk"
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert main(words[3:]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert main([*words[3:-1], f"out={tmp_path / 'roomy'}"]) == 0
    assert ingest.contents(out) == ingest.contents(tmp_path / "roomy")


@pytest.mark.parametrize("fault", ["vanishes", "is cut short"])
def test_an_input_that_changes_midway_stops_the_run_and_is_not_quarantined(
    png_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    config = ingest.recipe("folder", shard_size=5, **ingest.source_of(png_folder))
    convert(config, tmp_path / "unbroken", workers=1)
    image = png_folder / "images" / "im07.png"
    content = image.read_bytes()

    def harm(out: Path, shards: dict) -> list[str]:  # after listing, before the first image is read
        if fault == "vanishes":
            image.unlink()
        else:
            os.truncate(image, len(content) // 2)
        return list(shards)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("dira_scale.archive.claim.unfinished", harm)
        with pytest.raises(UserError, match=r"sharding to .* failed \(.*im07\.png.*finished shards are kept"):
            convert(config, out, workers=1)
    assert not (out / "manifest.parquet").exists()
    image.write_bytes(content)  # the share is mounted again, the copy is complete
    convert(config, out, workers=1)
    assert ingest.contents(out) == ingest.contents(tmp_path / "unbroken")
    assert ShardedDataset.open(out).info.quarantined == 0


def test_a_file_that_is_written_to_while_it_is_read_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"first")
    with pytest.raises(OSError, match="written to while it was read"), open_file(path) as file:
        file.read(2)
        path.write_bytes(b"other")
        os.utime(path, (1, 1))
        raise ValueError("half of one and half of the other cannot be decoded")
    with open_file(path) as file:  # another file of the name: what is read is the first one, all of it
        (tmp_path / "y").write_bytes(b"new")
        (tmp_path / "y").replace(path)
        assert file.read() == b"other"
