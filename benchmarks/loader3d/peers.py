"""nnU-Net's reader, medrs and torchio's Queue, in an environment of their own, where dira_scale is not."""

from collections.abc import Generator
from functools import partial
from pathlib import Path

import medrs
import nibabel
import numpy as np
import torch
import torchio
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

from benchmarks.loader3d.turns import Contender, CropList, check, turn
from benchmarks.turns import Turn

PACKAGES = ("nnunetv2", "blosc2", "medrs", "torchio", "torch", "numpy")
NNUNET = "nnU-Net's reader"
MEDRS = "medrs load_cropped, plain .nii"
SAMPLES = 1, 16  # crops that torchio's Queue takes of a volume


def write_nnunet(folder: Path, volumes: list[np.ndarray], size: tuple[int, ...]) -> None:
    """By its own class, in the bricks that its own function chooses for patches of ``size`` and two bytes a voxel; as
    int16, not float32: this is its form at equal bytes. No voxel is labelled."""
    folder.mkdir()
    for number, voxels in enumerate(volumes):
        data = np.array(voxels)[None]
        blocks, chunks = comp_blosc2_params(data.shape, size, data.itemsize)
        blocks_seg, chunks_seg = comp_blosc2_params(data.shape, size)
        nnUNetDatasetBlosc2.save_case(
            data, np.zeros(data.shape, np.int8), {"class_locations": {}}, str(folder / f"{number:05d}"),
            chunks=chunks, blocks=blocks, chunks_seg=chunks_seg, blocks_seg=blocks_seg,
        )  # fmt: skip


def reader(dataset: nnUNetDatasetBlosc2, crops: CropList) -> Generator[np.ndarray, None, None]:
    """``load_case``, which opens image, labels and properties, and the image's crop as its dataloader makes it."""
    for wanted in crops.batches():
        batch = np.empty((len(wanted), 1, *crops.size), np.int16)
        for slot, (volume, span) in zip(batch, wanted, strict=True):
            data, *_ = dataset.load_case(dataset.identifiers[volume])
            slot[...] = crop_and_pad_nd(data, [[axis.start, axis.stop] for axis in span], 0)
        yield batch


def cropped(files: list[Path], crops: CropList) -> Generator[np.ndarray, None, None]:
    """medrs cuts crops out of uncompressed files alone, and gives float32."""
    for wanted in crops.batches():
        batch = np.empty((len(wanted), 1, *crops.size), np.float32)
        for slot, (volume, span) in zip(batch, wanted, strict=True):
            start, size = [axis.start for axis in reversed(span)], list(reversed(crops.size))  # its axes are x, y, z
            slot[0] = medrs.load_cropped(str(files[volume]), start, size).to_numpy().T
        yield batch


def queue(files: list[Path], crops: CropList, samples: int) -> Generator[list[torch.Tensor], None, None]:
    """torchio's Queue without processes: ``samples`` crops of its own of each volume that it reads."""
    subjects = torchio.SubjectsDataset([torchio.Subject(image=torchio.ScalarImage(file)) for file in files])
    size = tuple(reversed(crops.size))  # its axes are x, y, z
    made = torchio.Queue(subjects, samples, samples, torchio.data.UniformSampler(size), num_workers=0)
    while True:
        yield [made[0]["image"][torchio.DATA].contiguous() for _ in range(samples)]


def contenders(folder: Path) -> tuple[dict[str, Turn], dict[str, int]]:
    """Their turns, and the bytes that each reads; nnU-Net's and medrs's forms of the volumes are written here."""
    torch.set_num_threads(1)
    crops = CropList.load(folder / "crops.npz")
    volumes = [np.load(file, mmap_mode="r") for file in sorted((folder / "npy").iterdir())]
    stored = folder / f"nnunet-{crops.name}"
    write_nnunet(stored, volumes, crops.size)
    bricks, nifti = sorted(stored.iterdir()), sorted((folder / "nifti").iterdir())
    plain = [folder / "nii" / f"{number:05d}.nii" for number in range(len(volumes))]
    for file, voxels in zip(plain, volumes, strict=True):
        file.parent.mkdir(exist_ok=True)
        nibabel.Nifti1Image(voxels.T, np.eye(4), dtype=np.int16).to_filename(file)
    made = [
        Contender(NNUNET, partial(reader, nnUNetDatasetBlosc2(str(stored)), crops), bricks),
        Contender(MEDRS, partial(cropped, plain, crops), plain),
    ]
    for number in SAMPLES:
        read = partial(queue, nifti, crops, number)
        made.append(Contender(f"torchio Queue, {number} a volume", read, nifti, same=False))
    for contender in made:
        check(contender, crops, volumes)
    sizes = {contender.name: sum(file.stat().st_size for file in contender.files) for contender in made}
    return {contender.name: partial(turn, contender) for contender in made}, sizes
