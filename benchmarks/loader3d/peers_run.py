"""nnU-Net's reader and torchio's Queue, in an environment of their own, where dira_scale is not.

    python -m benchmarks.loader3d.peers_run FOLDER CROPS

``peers.py`` starts it. It writes nnU-Net's form of the volumes in FOLDER, says who takes part, then takes a turn for
each line that it reads: {"name", "seconds", "cold"}.
"""

import json
import os
import sys
from collections.abc import Generator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torchio
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

from benchmarks.loader3d.turns import Contender, CropList, check, turn

PACKAGES = ("nnunetv2", "blosc2", "torchio", "torch", "numpy")
READER, WHOLE = "nnU-Net's reader", "nnU-Net's dataloader, float32"


def write_nnunet(folder: Path, volumes: list[np.ndarray], size: tuple[int, ...], normalise: bool) -> None:
    """As its preprocessing stores volumes for patches of ``size``, by its own function: float32, normalised; or their
    own int16, in bricks of as many bytes. No voxel is labelled."""
    folder.mkdir()
    for number, voxels in enumerate(volumes):
        data = np.array(voxels)[None]
        if normalise:
            data = np.clip(data, *np.percentile(data, (0.5, 99.5))).astype(np.float32)
            data = (data - data.mean()) / data.std()
        blocks, chunks = comp_blosc2_params(data.shape, size, data.itemsize)
        blocks_seg, chunks_seg = comp_blosc2_params(data.shape, size)
        nnUNetDatasetBlosc2.save_case(
            data, np.zeros(data.shape, np.int8), {"class_locations": {}}, str(folder / f"{number:05d}"),
            chunks=chunks, blocks=blocks, chunks_seg=chunks_seg, blocks_seg=blocks_seg,
        )  # fmt: skip


def reader(dataset: nnUNetDatasetBlosc2, crops: CropList, first: int, stop: int) -> Generator[np.ndarray, None, None]:
    """``load_case``, which opens image, labels and properties, and the image's crop as its dataloader makes it."""
    for number in range(first, stop):
        wanted = crops.batch(number)
        batch = np.empty((len(wanted), 1, *crops.size), np.int16)
        for slot, (volume, span) in zip(batch, wanted, strict=True):
            data, *_ = dataset.load_case(dataset.identifiers[volume])
            slot[...] = crop_and_pad_nd(data, [[axis.start, axis.stop] for axis in span], 0)
        yield batch


class GivenCrops(nnUNetDataLoader):
    """Its dataloader, but for which crops: those of the list."""

    def __init__(self, dataset: nnUNetDatasetBlosc2, crops: CropList, first: int) -> None:
        unlabelled = SimpleNamespace(all_labels=[], has_ignore_label=False)
        super().__init__(dataset, crops.volume.shape[1], crops.size, crops.size, unlabelled)
        self.crops, self.number = crops, first

    def get_indices(self) -> list[str]:
        wanted = self.crops.batch(self.number)
        self.number, self.spans = self.number + 1, [span for _, span in wanted]
        return [self._data.identifiers[volume] for volume, _ in wanted]

    def get_bbox(self, *_: Any, **__: Any) -> tuple[list[int], list[int]]:
        span = self.spans.pop(0)
        return [axis.start for axis in span], [axis.stop for axis in span]


def dataloader(
    dataset: nnUNetDatasetBlosc2, crops: CropList, first: int, stop: int
) -> Generator[torch.Tensor, None, None]:
    """Its dataloader as it is, without transforms: image and labels."""
    loader = GivenCrops(dataset, crops, first)
    for _ in range(first, stop):
        yield loader.generate_train_batch()["data"]


def queue(
    files: list[Path], crops: CropList, samples: int, first: int, stop: int
) -> Generator[list[torch.Tensor], None, None]:
    """torchio's Queue without processes: ``samples`` crops of its own of each volume that it reads."""
    subjects = torchio.SubjectsDataset([torchio.Subject(image=torchio.ScalarImage(file)) for file in files])
    size = tuple(reversed(crops.size))  # its axes are x, y, z
    made = torchio.Queue(subjects, samples, samples, torchio.data.UniformSampler(size), num_workers=0)
    for _ in range(first, stop):
        yield [made[0]["image"][torchio.DATA].contiguous() for _ in range(samples)]


def contenders(folder: Path, crops: CropList, volumes: list[np.ndarray]) -> list[Contender]:
    """All of this environment."""
    result = []
    for name, read, normalise in ((READER, reader, False), (WHOLE, dataloader, True)):
        stored = folder / f"nnunet-{crops.name}-{'float32' if normalise else 'int16'}"
        write_nnunet(stored, volumes, crops.size, normalise)
        dataset, files = nnUNetDatasetBlosc2(str(stored)), sorted(stored.iterdir())
        result.append(Contender(name, "others", partial(read, dataset, crops), files, same=not normalise))
    files = sorted((folder / "nifti").iterdir())
    for samples in (1, 16):
        name = f"torchio Queue, {samples} a volume"
        result.append(Contender(name, "others", partial(queue, files, crops, samples), files, same=False))
    return result


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the packages print
    torch.set_num_threads(1)
    folder, crops = Path(sys.argv[1]), CropList.load(Path(sys.argv[2]))
    volumes = [np.load(file, mmap_mode="r") for file in sorted((folder / "npy").iterdir())]
    by_name = {contender.name: contender for contender in contenders(folder, crops, volumes)}
    for contender in by_name.values():
        check(contender, crops, volumes)
    told = {name: sum(file.stat().st_size for file in contender.files) for name, contender in by_name.items()}
    print(json.dumps({"sizes": told, "packages": {name: version(name) for name in PACKAGES}}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            pace = turn(by_name[asked["name"]], asked["seconds"], asked["cold"])
        except OSError as error:
            print(json.dumps({"kept": str(error)}), file=answers)
        else:
            print(json.dumps({"pace": pace}), file=answers)


if __name__ == "__main__":
    main()
