"""What no reader passes, over the same crops: reading their bytes, decoding their bricks, copying their voxels; each
alone. What is read and decoded is what ``Samples.read`` was seen to ask for."""

import os
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

import imagecodecs
import numpy as np

from benchmarks.loader3d.inputs import VolumeInputs
from benchmarks.loader3d.ours import batches
from benchmarks.loader3d.results import COPYING, DECODING, READING
from benchmarks.loader3d.turns import Contender
from dira_scale.data.samples import Samples
from dira_scale.errors import UserError

BATCHES = 64  # whose calls are replayed; then they repeat
HOT = 8  # times that a batch is decoded before the next one: a reader has just read what it decodes

Work = list[Callable[[], Any]]


def contenders(inputs: VolumeInputs) -> list[Contender]:
    """Reading from the shards; decoding from memory; copying to a new batch.

    Raises UserError where nothing was decoded in bricks.
    """
    samples = Samples([inputs.dataset], "train")  # keeps the shards open
    read: Any = os.preadv
    decode: Any = imagecodecs.blosc2_decode
    reading: list[Work] = []
    decoding: list[Work] = []
    buffer = np.empty(max(file.stat().st_size for file in inputs.shards), np.uint8).data

    def preadv(file: int, buffers: Sequence[memoryview], offset: int) -> Any:
        reading[-1].append(partial(read, file, [buffer[: len(buffers[0])]], offset))
        return read(file, buffers, offset)

    def blosc2_decode(chunk: memoryview, **options: Any) -> Any:
        decoding[-1].append(partial(decode, bytes(chunk), **options))
        return decode(chunk, **options)

    with patch.object(os, "preadv", preadv), patch.object(imagecodecs, "blosc2_decode", blosc2_decode):
        for number in range(BATCHES):
            reading.append([])
            decoding.append([])
            (batch,) = batches(samples, inputs.crops, number, number + 1)
    if not decoding[0]:
        raise UserError("this dataset's volumes are not read in bricks")
    crops = len(batch)
    return [
        Contender(READING, "limit", partial(replay, reading, 1, crops, samples), inputs.shards, same=False),
        Contender(DECODING, "limit", partial(replay, decoding, HOT, crops, samples), same=False),
        Contender(COPYING, "limit", partial(replay, [[batch.copy]], 1, crops, samples), same=False),
    ]


def replay(
    work: Sequence[Work], times: int, crops: int, _samples: Samples, first: int, stop: int
) -> Generator[range, None, None]:
    """The calls of each batch, of so many crops."""
    for number in range(first, stop):
        for call in work[number // times % len(work)]:
            call()
        yield range(crops)
