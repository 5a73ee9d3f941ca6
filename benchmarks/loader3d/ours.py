"""Our loader, and the read path below it."""

from collections.abc import Generator
from functools import partial

import numpy as np
import torch

from benchmarks.loader3d.inputs import VolumeInputs
from benchmarks.loader3d.results import LOADER
from benchmarks.loader3d.turns import Contender, CropList
from dira_scale.data.loaders.build import choose
from dira_scale.data.samples import Samples
from dira_scale.pixels.boxes import Crop

READER = "ours: Samples.read"


def contenders(inputs: VolumeInputs) -> list[Contender]:
    """The loader, as training builds it; and ``Samples.read`` alone."""
    built, samples = choose("cpu").build(inputs.spec), Samples([inputs.dataset], "train")

    def load(first: int, stop: int) -> Generator[torch.Tensor, None, None]:
        for batch in built.iterate(first, stop):
            yield batch.views[0]

    read = partial(batches, samples, inputs.crops)
    return [Contender(LOADER, "ours", load, inputs.shards), Contender(READER, "ours", read, inputs.shards)]


def batches(samples: Samples, crops: CropList, first: int, stop: int) -> Generator[np.ndarray, None, None]:
    """Each crop read into a batch."""
    for number in range(first, stop):
        wanted = crops.batch(number)
        batch = np.empty((len(wanted), 1, *crops.size), np.int16)
        for slot, (volume, span) in zip(batch, wanted, strict=True):
            box = (*(axis.start for axis in span), *crops.size)
            samples.read(volume, [Crop(box, (False,) * 3)], [slot])
        yield batch
