"""Cubes of words, cut out of their volumes, or patches of images: an ordinary dataset's samples."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import xxhash

from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.manifest.index import SIDES
from dira_scale.dataset.manifest.tar import Sample
from dira_scale.dataset.pixels.boxes import Crop
from dira_scale.dataset.pixels.codecs import encode
from dira_scale.train.data.reader import SampleReader
from dira_scale.train.data.samples import Samples
from dira_scale.words.config import Words
from dira_scale.words.search import SplitVolumes, Word, boxes

LABEL = "word"
KEPT = ["key", "patient", "study", "low", "high", "spacing", "affine"]  # columns that cubes have, or come from
CODECS = {2: "png", 3: "b2nd"}  # without loss, by dimensions


class Cube(NamedTuple):
    """One cube. ``sample`` is the position of its volume in its ``split``, ``row`` that in the manifest; ``resolution``
    counts from 1, which is not resized; ``box`` is (z, y, x, d, h, w), of an image (y, x, h, w)."""

    key: str
    split: str
    word: int
    resolution: int
    sample: int
    row: int
    box: tuple[int, ...]


class PlannedCube(NamedTuple):
    """A cube for a worker to make; ``volume``: columns ``KEPT`` of the manifest's row."""

    cube: Cube
    volume: dict[str, Any]


class WordPlan:
    """The cubes of each shard; a ``PlannedShards`` of :mod:`dira_scale.archive.plan`.

    Attributes:
        shards: file name -> its cubes, by key and hence shuffled.
        hash: identity of all cubes.
    """

    label_names = (LABEL,)
    channels = ()

    def __init__(self, dataset: ShardedDataset, cubes: Sequence[Cube], shard_size: int) -> None:
        self._dataset = dataset
        self.shards: dict[str, list[Cube]] = {}
        for split in dict.fromkeys(cube.split for cube in cubes):
            ordered = sorted(cube for cube in cubes if cube.split == split)
            for number, first in enumerate(range(0, len(ordered), shard_size)):
                self.shards[f"{split}-{number:06d}.tar"] = ordered[first : first + shard_size]
        self.hash = hashlib.sha256(json.dumps([*self.shards.items()]).encode()).hexdigest()

    def items(self, shard: str) -> list[PlannedCube]:
        """The cubes of one shard."""
        cubes = self.shards[shard]
        rows = self._dataset.manifest.table(KEPT).take([cube.row for cube in cubes]).to_pylist()
        return list(map(PlannedCube, cubes, rows))


def planned_cubes(
    words: Words, discovered: Sequence[Word], dataset: ShardedDataset, train: SplitVolumes, val: SplitVolumes
) -> list[Cube]:
    """Every cube of every word: of training neighbours also the zoomed ones."""
    cubes = []
    splits = (words.data.split, train, 1 + words.zoomed.cubes), (words.data.val_split, val, 1)
    for number, word in enumerate(discovered):
        for (split, volumes, resolutions), chosen in zip(splits, (word.train, word.val), strict=True):
            samples, rows = volumes.samples[chosen], volumes.rows[chosen]
            for resolution in range(resolutions):
                placed = boxes(words, number, word.corner, volumes, chosen, resolution)
                for sample, row, box in zip(samples.tolist(), rows.tolist(), placed.tolist(), strict=True):
                    name = f"{dataset.cell('key', row)} {number} {resolution + 1}"
                    key = xxhash.xxh3_128_hexdigest(name.encode())[:24]
                    cubes.append(Cube(key, split, number, resolution + 1, sample, row, tuple(box)))
    return cubes


def make_cube(planned: PlannedCube, shards: str, size: Sequence[int]) -> Iterator[Sample]:
    """The sample of a cube of ``size``, from the dataset at ``shards``. Raises UserError for a volume that is damaged.

    A zoomed cube has the spacing that its voxels have after resizing.
    """
    cube, volume = planned
    voxels, codec = cut(_reader(shards, cube.split), cube.sample, cube.box, size), CODECS[len(size)]
    payload = encode(voxels, codec)
    axes, spacing, affine = len(size), volume["spacing"], volume["affine"]
    step = np.array(cube.box[axes:]) / np.array(size)
    if affine is not None:  # an image has none, and may have no spacing
        start = np.array(cube.box[:axes]) + (step - 1) / 2  # a resized voxel's centre lies between old ones
        inside = np.diag([*step[::-1], 1.0])
        inside[:3, 3] = start[::-1]
        matrix = np.array(affine).reshape(4, 4) @ inside
        affine, spacing = [*map(float, matrix.flat)], [*map(float, np.linalg.norm(matrix[:3, :3], axis=0)[::-1])]
    elif spacing:
        spacing = [*map(float, step * spacing)]
    row = {name: volume[name] for name in ("patient", "study", "low", "high")}
    row |= {"key": cube.key, "split": cube.split, "codec": codec, "channels": 1, "bits": 8 * voxels.itemsize}
    row |= {"depth": 1} | dict(zip(SIDES[axes], size, strict=True)) | {"spacing": spacing, "affine": affine}
    row |= {"labels": [float(cube.word)], "boxes": []}
    box = " ".join(map(str, cube.box))
    row |= {"attributes": {"volume": volume["key"], "resolution": str(cube.resolution), "box": box}}
    yield Sample(row | {"xxh3": xxhash.xxh3_64_hexdigest(payload)}, payload, None)


def cut(reader: SampleReader, sample: int, box: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The voxels in ``box``, resized to ``size``: int16 [D, H, W]; of images uint8 [H, W], uint16 if any of the dataset
    has 16 bits. Raises UserError for a volume that is damaged."""
    voxels = np.empty((1, *size), str(reader.samples.dtype).removeprefix("torch."))
    reader.read(sample, [Crop(tuple(map(float, box)), len(size) * (False,))], [voxels])
    return voxels[0]


@lru_cache
def _reader(shards: str, split: str) -> SampleReader:
    """Once for each worker process."""
    return SampleReader(Samples([ShardedDataset.open(shards, check_shards=False)], split))
