"""Speed of the writer compared with that of a bare loop."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher
from dira_scale.archive.imaging.read import read_image
from dira_scale.archive.imaging.volumes import prepare, read_volume
from dira_scale.archive.phantom.ct.dataset import write_metaimage
from dira_scale.archive.phantom.ct.scanner import ScanGrid
from dira_scale.archive.phantom.cxr.dataset import generate
from dira_scale.archive.plan import plan_shards
from dira_scale.archive.recipe import Recipe
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.writer import WrittenShard, sharding, write_shards
from dira_scale.base.config.compose import compose
from dira_scale.base.machine.workers import worker_pool
from dira_scale.dataset.pixels.codecs import encode


@dataclass(frozen=True)
class ShardCase:
    """What is read, and what becomes of it."""

    source: str  # dicom | png | mhd
    codec: str
    bits: int
    count: int  # inputs of a round, for each process


FORMS = (
    ("dicom", "png", 16, 48), ("dicom", "jpg", 8, 96), ("dicom", "jp2", 16, 96), ("png", "png", 16, 48),
    ("png", "jp2", 16, 96), ("mhd", "b2nd", 16, 3),
)  # fmt: skip
CASES = [ShardCase(*form) for form in FORMS]


def make_inputs(folder: Path) -> dict[str, list[Path]]:
    """A few files of each kind; a round goes through them again and again."""
    generate(folder / "phantom", 8, 0, 1024, workers=os.cpu_count() or 1)
    dicom = sorted((folder / "phantom" / "dicom").rglob("*.dcm"))[:8]
    png: list[Path] = []
    for path in dicom:
        png.append(folder / f"{len(png)}.png")
        Image.fromarray(read_image(path, 16).pixels).save(png[-1])
    z, y, x = np.mgrid[:200, :512, :512].astype(np.float32)
    body = np.where((y - 256) ** 2 / 4 + (x - 256) ** 2 < 180**2 / 2, 40 + 20 * np.sin(z / 20), -1000)
    noise = np.random.default_rng(0).normal(0, 12, body.shape)
    voxels = (body + noise).astype(np.int16)
    write_metaimage(folder / "ct.mhd", voxels, ScanGrid(voxels.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    return {"dicom": dicom, "png": png, "mhd": [folder / "ct.mhd"]}


def recipe_of(case: ShardCase) -> Recipe:
    name = "volumes" if case.source == "mhd" else "folder"
    config = compose("shard", [f"recipe={name}", "out=none", "recipe.images=none"]).recipe
    keys: Any = OmegaConf.to_container(config, resolve=True)
    keys |= {"codec": case.codec, "bits": case.bits, "splits": {"train": 1}}
    return Recipe.from_config(keys | {"shard_size": 1 if case.source == "mhd" else 4})


def decode_and_encode(path: Path, recipe: Recipe) -> int:
    """All that cannot be left out; bytes written."""
    if recipe.dims == 2:
        return len(encode(read_image(path, recipe.bits).pixels, recipe.codec, recipe.quality))
    volume, _, _ = prepare(read_volume(path, recipe.reading), None, (), recipe.volume)
    return len(encode(volume.voxels, recipe.codec))


class Mark(NamedTuple):
    """A worker's clocks when it has done some images."""

    process: int
    images: int
    processor: float  # seconds, of this process
    wall: float

    @classmethod
    def now(cls, images: int) -> "Mark":
        return cls(os.getpid(), images, time.process_time(), time.perf_counter())


class ShardPace(NamedTuple):
    """The rate of all workers, from the first mark of each: how it starts does not count."""

    processor: float  # seconds an image
    rate: float  # images a second


def pace(marks: Iterable[Mark]) -> ShardPace:
    """From the marks of one run."""
    processor, images, rate = 0.0, 0, 0.0
    for _, ours in groupby(sorted(marks), key=lambda mark: mark.process):
        first, *others = sorted(ours, key=lambda mark: mark.wall)
        if others:
            done = sum(mark.images for mark in others)
            images += done
            processor += others[-1].processor - first.processor
            rate += done / (others[-1].wall - first.wall)
    return ShardPace(processor / images, rate)


def _bare(path: Path, recipe: Recipe) -> Mark:
    decode_and_encode(path, recipe)
    return Mark.now(1)


def bare_loop(recipe: Recipe, paths: list[Path], processes: int) -> ShardPace:
    with worker_pool(processes, __name__) as pool:
        return pace(pool.map(_bare, paths, repeat(recipe)))


def _note(folder: Path, name: str, part: Path, shard: WrittenShard) -> None:
    (folder / f"{name}.json").write_text(json.dumps(Mark.now(len(shard.rows))))


def writer(recipe: Recipe, paths: list[Path], processes: int) -> ShardPace:
    records = (SourceRecord(f"{number}", path) for number, path in enumerate(paths))
    planned = plan_shards(records, recipe, Hasher(PUBLIC_KEY))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(list(planned.shards), planned, sharding(recipe), processes, folder, partial(_note, folder))
        return pace(Mark(*json.loads(file.read_text())) for file in folder.glob("*.json"))


def speed(case: ShardCase, inputs: list[Path], processes: int, rounds: int) -> dict[str, Any]:
    """Both in turns; the share is of the processors' time, which a busy machine does not change."""
    recipe = recipe_of(case)
    paths = [inputs[n % len(inputs)] for n in range(case.count * processes)]
    turns = [(bare_loop(recipe, paths, processes), writer(recipe, paths, processes)) for _ in range(rounds)]
    shares = [bare.processor / ours.processor for bare, ours in turns]
    return asdict(case) | {
        "processes": processes,
        "limit": statistics.median(bare.rate for bare, _ in turns),
        "writer": statistics.median(ours.rate for _, ours in turns),
        "processor_ms": statistics.median(1000 * ours.processor for _, ours in turns),
        "share": statistics.median(shares),
        "shares": shares,
    }
