"""MONAI's PersistentDataset and CacheDataset, with its RandSpatialCrop at the crops of the list."""

from collections.abc import Generator, Sequence
from copy import copy
from functools import partial

import numpy as np
import torch
from monai.data import CacheDataset, Dataset, PersistentDataset
from monai.transforms import Compose, Lambda, RandSpatialCrop

from benchmarks.loader3d.inputs import VolumeInputs
from benchmarks.loader3d.results import PERSISTENT
from benchmarks.loader3d.turns import Contender, CropList

CACHE = "MONAI CacheDataset"
UNCOPIED = "MONAI CacheDataset, copy_cache=False"


class GivenCrop(RandSpatialCrop):
    """RandSpatialCrop, whose next crop is ``span``."""

    span: tuple[slice, ...]

    def randomize(self, img_size: Sequence[int]) -> None:
        self._size, self._slices = self.roi_size, self.span


def contenders(inputs: VolumeInputs) -> list[Contender]:
    """The volumes as they are, int16: in files that PersistentDataset writes, or in memory."""
    crop, files = GivenCrop(inputs.crops.size), list(map(str, inputs.npy))
    transform = Compose([Lambda(lambda file: np.load(file)[None]), crop])
    cache = inputs.folder / f"monai-{inputs.crops.name}"
    crop.span = inputs.crops.batch(0)[0][1]
    persistent = PersistentDataset(files, transform, cache)
    for number in range(len(files)):
        persistent[number]  # writes it
    in_memory = CacheDataset(files, transform, progress=False)
    uncopied = copy(in_memory)  # of the same volumes
    uncopied.copy_cache = False
    made = {PERSISTENT: persistent, CACHE: in_memory, UNCOPIED: uncopied}
    stored = {PERSISTENT: sorted(cache.iterdir())}
    return [
        Contender(name, "others", partial(batches, dataset, crop, inputs.crops), stored.get(name, ()))
        for name, dataset in made.items()
    ]


def batches(
    dataset: Dataset, crop: GivenCrop, crops: CropList, first: int, stop: int
) -> Generator[torch.Tensor, None, None]:
    """Crops copied into a batch; without a DataLoader's processes and what its collating adds."""
    for number in range(first, stop):
        wanted = crops.batch(number)
        batch = torch.empty((len(wanted), 1, *crops.size), dtype=torch.int16)
        for slot, (volume, crop.span) in zip(batch, wanted, strict=True):
            slot.copy_(dataset[volume])
        yield batch
