"""A conversion of pictures in colour: every codec, mixtures counted, and one line where all are of the other kind."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from archive import ingest
from archive.sources.miniatures_colour import colours, write
from PIL import Image

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.pixels.codecs import decode
from dira_scale.shard.convert import convert
from dira_scale.shard.curate.merge import merge
from dira_scale.shard.curate.stats import Stats
from dira_scale.shard.curate.stats_page import tile
from dira_scale.shard.curate.verify import verify


def pictures(root: Path, count: int = 6, grey: int = 0) -> Path:
    for n in range(count + grey):
        write(root / f"{n}.png", n, grey=n >= count)
    return root


def converted(images: Path, out: Path, **keys: object) -> ShardedDataset:
    convert(ingest.recipe("folder", images=str(images), labels=None, **keys), out, workers=1)
    return ShardedDataset.open(out)


@pytest.mark.parametrize("codec", ["png", "jpg", "jp2", "npy"])
def test_every_codec_holds_three_channels(tmp_path: Path, codec: str) -> None:
    dataset = converted(pictures(tmp_path / "in"), tmp_path / "out", codec=codec, colour="rgb", max_side=36)
    expected = [np.asarray(Image.fromarray(colours(n)).resize((30, 36), Image.Resampling.BILINEAR)) for n in range(6)]
    for row in range(6):
        assert dataset.shape(row) == (36, 30, 3) and dataset.range(row) == (0, 255)
        pixels = decode(dataset.read(row), codec, (36, 30, 3)).astype(int)
        assert min(np.abs(pixels - each).mean() for each in expected) <= (2.5 if codec == "jpg" else 0)
    assert dataset.info.recipe["colour"] == "rgb" and dataset.info.format_version == 3
    assert not verify(tmp_path / "out", workers=1)
    shown = tile(Stats(dataset), 0)
    assert shown.std(2).max() > 20  # in colour


def test_mixtures_are_counted(tmp_path: Path) -> None:
    images = pictures(tmp_path / "in", 6, grey=3)
    for colour, taken in (("rgb", 6), ("grey", 3), ("luminance", 9)):
        dataset = converted(images, tmp_path / colour, colour=colour)
        rejected = pq.read_table(tmp_path / colour / "quarantine.parquet").to_pylist()
        assert sum(dataset.info.counts.values()) == taken and len(rejected) == 9 - taken
        assert {row["stage"] for row in rejected} <= {"colour"}
    assert "colour" not in ShardedDataset.open(tmp_path / "grey").info.recipe  # as of older datasets
    with pytest.raises(
        UserError, match=r"grey has grey images, but .*rgb images in colour: merge datasets of the same"
    ):
        merge([tmp_path / "rgb", tmp_path / "grey"], tmp_path / "both", "both")


@pytest.mark.parametrize(
    "colour, kind, words",
    [
        ("grey", {}, "recipe.colour=grey: none of the first 6 images .* 6 of them because they are in colour"),
        ("rgb", {"count": 0, "grey": 3}, "recipe.colour=rgb: none of the first 3 images .* 3 of .* because they are g"),
        ("red", {}, "recipe.colour=red: expected grey, luminance, rgb or any"),
    ],
)
def test_the_other_kind_is_one_line_before_anything_is_written(
    tmp_path: Path, colour: str, kind: dict, words: str
) -> None:
    with pytest.raises(UserError, match=words) as raised:
        converted(pictures(tmp_path / "in", **kind), tmp_path / "out", colour=colour)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_volumes_have_no_colour(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"recipe\.colour=rgb: expected grey where dims are 3"):
        convert(ingest.recipe("volumes", images=str(tmp_path), colour="rgb"), tmp_path / "out", workers=1)


@pytest.mark.parametrize("grey", [0, 3])
def test_any_stores_three_channels_of_grey_images_too(tmp_path: Path, grey: int) -> None:
    dataset = converted(pictures(tmp_path / "in", 2, grey), tmp_path / "out", colour="any")
    stored = [decode(dataset.read(row), "png", dataset.shape(row)) for row in range(2 + grey)]
    repeated = [pixels for pixels in stored if (pixels == pixels[..., :1]).all()]
    assert len(repeated) == grey and dataset.info.in_colour
    files = [np.asarray(Image.open(tmp_path / "in" / f"{n}.png")) for n in range(2, 2 + grey)]
    assert all(any((pixels[..., 0] == file).all() for pixels in repeated) for file in files)
