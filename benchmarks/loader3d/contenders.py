"""Who reads crops in this environment: our loader, and MONAI's datasets with its RandSpatialCrop."""

from collections.abc import Callable, Generator, Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.loader3d.inputs import VolumeInputs
from benchmarks.loader3d.turns import Contender, CropList
from dira_scale.dataset.metrics.libraries import require_libraries
from dira_scale.train.data.loaders.build import choose

LOADER = "ours: cpu"
FOREVER = 10**6  # batches


def ours(inputs: VolumeInputs) -> list[Contender]:
    """The loader, as training builds it."""
    built = choose("cpu").build(inputs.spec)

    def load() -> Generator[torch.Tensor, None, None]:
        for batch in built.iterate(0, FOREVER):
            yield batch.views[0]

    return [Contender(LOADER, load, inputs.shards)]


def monai(inputs: VolumeInputs) -> list[Contender]:
    """The volumes as they are, int16: in files that PersistentDataset writes, or in memory.

    CacheDataset copies a volume before each crop, unless ``copy_cache`` is false.
    """
    require_libraries()
    from monai.data import CacheDataset, PersistentDataset  # which takes seconds
    from monai.transforms import Compose, Lambda, RandSpatialCrop

    class GivenCrop(RandSpatialCrop):
        """RandSpatialCrop, whose next crop is ``span``."""

        span: tuple[slice, ...]

        def randomize(self, img_size: Sequence[int]) -> None:
            self._size, self._slices = self.roi_size, self.span

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
    read = partial(partial, batches, crop, inputs.crops)
    return [
        Contender("MONAI PersistentDataset", read(persistent), sorted(cache.iterdir())),
        Contender("MONAI CacheDataset", read(in_memory)),
        Contender("MONAI CacheDataset, copy_cache=False", read(uncopied)),
    ]


def batches(crop: Any, crops: CropList, dataset: Any) -> Generator[torch.Tensor, None, None]:
    """Crops copied into a batch; without a DataLoader's processes and what its collating adds."""
    for wanted in crops.batches():
        batch = torch.empty((len(wanted), 1, *crops.size), dtype=torch.int16)
        for slot, (volume, crop.span) in zip(batch, wanted, strict=True):
            slot.copy_(dataset[volume])
        yield batch


OFFERS: dict[str, Callable[[VolumeInputs], list[Contender]]] = {"ours": ours, "MONAI": monai}
