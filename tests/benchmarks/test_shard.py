"""bench shard: both of its sides do the same work, and the start of a worker does not count."""

from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.shard.speed import Mark, ShardCase, decode_and_encode, pace, recipe_of
from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher
from dira_scale.archive.plan import plan_shards
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.writer import sharding, write_shard


def test_the_bare_loop_makes_what_the_writer_stores(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 60000, (64, 50)).astype(np.uint16)).save(path)
    for codec, bits in (("png", 16), ("jpg", 8), ("jp2", 16)):
        recipe = recipe_of(ShardCase("png", codec, bits, 1))
        items = plan_shards([SourceRecord("x", path)], recipe, Hasher(PUBLIC_KEY)).items("train-000000.tar")
        shard = write_shard(tmp_path / "train-000000.tar", items, sharding(recipe), ())
        assert shard is not None and shard.rows[0]["size"] == decode_and_encode(path, recipe)


def test_the_pace_is_from_each_workers_first_mark_on() -> None:
    """One worker does 4 images in 2 s of its processor and 4 s of the clock, another one does 2 in 1 s of both."""
    item = [Mark(1, 4, 10.0, 100.0), Mark(1, 2, 11.0, 102.0), Mark(1, 2, 12.0, 104.0)]
    other, idle = [Mark(2, 9, 5.0, 100.5), Mark(2, 2, 6.0, 101.5)], [Mark(3, 4, 1.0, 1.0)]
    assert pace([*other, *reversed(item), *idle]) == (3.0 / 6, 4 / 4 + 2 / 1)
