"""Small versions of all images, scaled as in training, to find near-duplicates."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dira_scale.data.manifest import ShardedDataset
from dira_scale.machine.progress import bar
from dira_scale.machine.workers import parallel_map
from dira_scale.pixels.codecs import DecodeError, decode

SIDE = 64  # pixels
SLICES = (0.25, 0.5, 0.75)  # of a volume's depth
CHUNK = 256  # rows per task


def thumbnails(datasets: Sequence[ShardedDataset], folder: Path, workers: int) -> np.ndarray:
    """float16 [rows of all, K, SIDE, SIDE] in [0, 1], in a file in ``folder``; K = 1, for volumes 3 axial slices.

    Images that cannot be decoded are 0: ``shard verify`` names them.
    """
    dims = {dataset.info.dims for dataset in datasets}
    shape = (sum(dataset.table.num_rows for dataset in datasets), 1 if dims == {2} else len(SLICES), SIDE, SIDE)
    pictures = np.lib.format.open_memmap(folder / "thumbnails.npy", "w+", np.float16, shape)
    jobs = ((str(dataset.root), range(n, min(n + CHUNK, dataset.table.num_rows)))
            for dataset in datasets for n in range(0, dataset.table.num_rows, CHUNK))  # fmt: skip
    with bar("looking at", "images") as shown:
        task, start = shown.add_task("", total=shape[0]), 0
        for made in parallel_map(_of_rows, jobs, workers):
            pictures[start : start + len(made)] = made
            start += len(made)
            shown.advance(task, len(made))
    return pictures


def _of_rows(path: str, rows: range) -> np.ndarray:
    cv2.setNumThreads(1)
    dataset = ShardedDataset.open(path, check_shards=False)
    return np.stack([thumbnail(dataset, row) for row in rows])


def thumbnail(dataset: ShardedDataset, row: int) -> np.ndarray:
    """float16 [K, SIDE, SIDE]; the aspect ratio is not kept."""
    low, high = (float(dataset.column(name)[row]) for name in ("low", "high"))
    try:
        planes = _planes(dataset, row)
    except DecodeError:
        return np.zeros((len(SLICES) if dataset.info.dims == 3 else 1, SIDE, SIDE), np.float16)
    scaled = [np.clip((plane.astype(np.float32) - low) / ((high - low) or 1), 0, 1) for plane in planes]
    return np.stack([cv2.resize(p, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for p in scaled]).astype(np.float16)


def _planes(dataset: ShardedDataset, row: int) -> list[np.ndarray]:
    if dataset.info.dims == 3:
        voxels = dataset.voxels(row)
        first = (0,) * (len(voxels.shape) - 3)
        return [np.asarray(voxels[(*first, int(part * voxels.shape[-3]))]) for part in SLICES]
    pixels = decode(dataset.read(row), dataset.column("codec")[row], dataset.shape(row))
    return [pixels.mean(-1) if pixels.ndim == 3 else pixels]
