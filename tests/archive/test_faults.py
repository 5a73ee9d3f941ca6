"""Faults, by doing them: processes killed, a full disk, inputs that vanish, shrink or change midway."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from archive.sources.conftest import Here
from PIL import Image

from dira_scale.archive import writer
from dira_scale.data.manifest import ShardedDataset
from dira_scale.errors import UserError
from dira_scale.shard import main
from dira_scale.shard.convert import convert
from dira_scale.storage.store import open_file


def command(folder: Path, out: Path, ingest: SimpleNamespace, images: int) -> list[str]:
    """A conversion of many small shards, by two workers."""
    if not (folder / "images").exists():
        (folder / "images").mkdir()
        for number in range(images):
            Image.fromarray(ingest.picture(number, 200, 200)).save(folder / "images" / f"{number}.png")
        (folder / "images" / "broken.png").write_bytes(b"\x89PNG")
    recipe = ["recipe=folder", "recipe.name=disk", f"recipe.images={folder / 'images'}", "recipe.shard_size=4"]
    recipe.append("workers=2")
    return [sys.executable, "-m", "dira_scale.shard", *recipe, f"out={out}"]


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
    tmp_path: Path, small_disk: Path, ingest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = small_disk / "out"
    words = command(tmp_path, out, ingest, 32)  # 1 MB
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 2
    (line,) = ended.stderr.strip().splitlines()
    assert "No space left on device" in line and "finished shards are kept" in line
    states = {path.stem for path in (out / ".partial").glob("*-*.json")}
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.tar") if path.stem in states}
    assert kept and not list((out / ".partial").glob("*.tar")), "half a shard is left on the full disk"
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    monkeypatch.setattr(writer, "worker_pool", Here)
    assert main(words[3:]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert main([*words[3:-1], f"out={tmp_path / 'roomy'}"]) == 0
    assert ingest.contents(out) == ingest.contents(tmp_path / "roomy")


@pytest.mark.parametrize("fault", ["vanishes", "is cut short", "is replaced"])
def test_an_input_that_changes_midway_stops_the_run_and_is_not_quarantined(
    png_folder: Path, tmp_path: Path, ingest: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(writer, "worker_pool", Here)
    config = ingest.recipe("folder", shard_size=5, **ingest.source_of(png_folder))
    convert(config, tmp_path / "unbroken", workers=1)
    image = png_folder / "images" / "im07.png"
    content = image.read_bytes()

    def harm(out: Path, shards: dict) -> list[str]:  # after listing, before the first image is read
        if fault == "vanishes":
            image.unlink()
        elif fault == "is cut short":
            os.truncate(image, len(content) // 2)
        else:
            Image.fromarray(ingest.picture(7, 60, 60)).save(image)
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


def test_a_file_that_is_written_to_while_it_is_read_is_told(tmp_path: Path) -> None:
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
