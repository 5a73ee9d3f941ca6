"""Broken shards are written again, and nothing else; what cannot be as it was is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from dira_scale.errors import UserError
from dira_scale.shard.convert import convert
from dira_scale.shard.repair import repair


def flip(path: Path, location: int) -> None:
    content = bytearray(path.read_bytes())
    content[location] ^= 1
    path.write_bytes(content)


def test_only_what_is_broken_is_written_again_byte_for_byte(
    png_folder: Path, tmp_path: Path, ingest: SimpleNamespace, capsys: pytest.CaptureFixture
) -> None:
    config, out = ingest.recipe("folder", shard_size=3, **ingest.source_of(png_folder)), tmp_path / "out"
    convert(config, out, workers=1)
    whole = ingest.contents(out)
    assert repair(config, out, workers=1) == [] and "every checksum matches" in capsys.readouterr().out
    shards = sorted(path for path in out.glob("*.tar"))
    gone, cut, flipped, *kept = shards
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:-512])
    flip(flipped, 100)  # in a tar header's padding: no image, no label, no checksum of a sample has it
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert sorted(repair(config, out, workers=1)) == [path.name for path in (gone, cut, flipped)]
    assert ingest.contents(out) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    printed = capsys.readouterr().out
    assert (
        f"{gone.name}: missing" in printed
        and f"{flipped.name}: another checksum" in printed
        and "instead of" in printed
    )


def test_another_source_or_recipe_repairs_nothing(png_folder: Path, tmp_path: Path, ingest: SimpleNamespace) -> None:
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
    assert {name: now[name] for name in broken if not name.endswith(".tar")} == {
        name: content for name, content in broken.items() if not name.endswith(".tar")
    }
